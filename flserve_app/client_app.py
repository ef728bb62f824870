"""The ClientApp of `flwr run`."""

from flserve_app.compose.apps import make_client_app

app = make_client_app()
