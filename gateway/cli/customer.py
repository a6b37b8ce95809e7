"""`customer`: commands about one customer."""

import typer

from gateway.cli import app

customer = typer.Typer(help="Customers.")
app.add_typer(customer, name="customer", no_args_is_help=True)
