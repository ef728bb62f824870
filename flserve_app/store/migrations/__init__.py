"""The revisions of the catalog, for alembic; nothing here runs while a catalog is at the newest one."""
