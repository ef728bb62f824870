"""Files as disks keep them, without SQL and without Flower: what is forced to disk, and what may be opened at all."""
