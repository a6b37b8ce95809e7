"""Whether requests that cannot be paid are refused: for everything, and for single customers."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.auth.guard import Session, require
from gateway.admin.console.forms import Entered, FormView, entered, explain, refused
from gateway.admin.console.rendering import PREFIX, Toast, Tone, done, page
from gateway.domain.customers import Mode
from gateway.domain.modes import MODES, Modes, SetMode
from gateway.operations.errors import OperationError
from gateway.operations.modes import ModeChange, change_mode, show_modes

router = APIRouter(prefix=PREFIX, include_in_schema=False)
Viewer = Annotated[Session, Depends(require("modes.read"))]
Writer = Annotated[Session, Depends(require("modes.write"))]

CONFIGURED: Final = "configured"
"""The choice that removes what an operator has set."""
MEANINGS: Final = {
    "enforce": "Refuse requests that cannot be paid, and charge the others.",
    "shadow": "Forward every request; note what would have been refused. Nobody is charged.",
    "bypass": "Forward every request without asking the ledger. Nothing is counted or charged.",
}


@dataclass(frozen=True, slots=True)
class OwnMode:
    """A customer with its own mode. set_mode: None where the configuration has it"""

    customer_id: str
    mode: Mode
    set_mode: SetMode | None


@dataclass(frozen=True, slots=True)
class ModesView:
    """The page. set_mode: what an operator has set for everything"""

    mode: Mode
    configured: Mode
    set_mode: SetMode | None
    customers: list[OwnMode]
    section: str = "now"


@dataclass(frozen=True, slots=True)
class ModeSubject:
    """What the form is about. customer_id: "" for everything"""

    customer_id: str
    modes: Modes
    meanings: dict[str, str]


@router.get("/modes")
async def show(request: Request, session: Viewer) -> Response:
    """The modes in force."""
    modes = await show_modes(session.backend)
    names = sorted(modes.customers.keys() | modes.set_customers.keys())
    view = ModesView(
        modes.of_everything,
        modes.everything,
        modes.set_everything,
        [OwnMode(name, modes.of(name)[0], modes.set_customers.get(name)) for name in names],
    )
    return page(request, session, "modes.html", view)


@router.get("/modes/everything")
async def everything_form(request: Request, session: Writer) -> Response:
    """Change the mode of everything."""
    return page(request, session, "mode.html", await _view(session, ""))


@router.post("/modes/everything")
async def change_everything(request: Request, session: Writer) -> Response:
    """Change it; every worker follows within a second."""
    return await _change(request, session, "")


@router.get("/customers/{customer_id}/mode")
async def customer_form(request: Request, session: Writer, customer_id: str) -> Response:
    """Change the mode of one customer."""
    return page(request, session, "mode.html", await _view(session, customer_id))


@router.post("/customers/{customer_id}/mode")
async def change_customer(request: Request, session: Writer, customer_id: str) -> Response:
    """Change it."""
    return await _change(request, session, customer_id)


async def _change(request: Request, session: Session, customer_id: str) -> Response:
    entry, view = await entered(request), await _view(session, customer_id)
    mode, reason = _mode(entry), entry.reason()
    if mode in ("shadow", "bypass") and not customer_id and entry.text("confirm") != "yes":
        entry.problems["confirm"] = "Confirm that no customer is charged from now on."
    if not entry.problems:
        try:
            changed = await change_mode(
                session.backend, ModeChange(customer_id or None, mode, reason)
            )
        except OperationError as error:
            explain(entry, error)
        else:
            of = customer_id or "Everything"
            said = f"{of} is in {changed.mode} mode."
            if changed.kept:
                said = f"{said} {changed.kept} customers keep their own modes."
            tone: Tone = "ok" if changed.mode == "enforce" else "warn"
            return done(request, view.back, Toast(said, tone))
    return refused(request, session, "mode.html", view, entry)


def _mode(entry: Entered) -> Mode | None:
    """The chosen mode; None for what the configuration says."""
    chosen = entry.chosen("mode", (*MODES, CONFIGURED), "Choose a mode.")
    return next((mode for mode in MODES if mode == chosen), None)


async def _view(session: Session, customer_id: str) -> FormView:
    modes = await show_modes(session.backend)
    if customer_id:
        back, now = f"/customers/{customer_id}", modes.set_customers.get(customer_id)
        title, action = f"Mode of {customer_id}", f"{back}/mode"
    else:
        back, now = "/modes", modes.set_everything
        title, action = "Mode of everything", "/modes/everything"
    values = {"mode": CONFIGURED if now is None else now.mode}
    subject = ModeSubject(customer_id, modes, MEANINGS)
    return FormView(
        "customers" if customer_id else "now", title, action, back, values, subject=subject
    )
