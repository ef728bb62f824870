import warnings

# typer imports names of click that newer click releases warn about; that is between the two.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer.testing  # noqa: F401
