"""The configured ledger, asked what it allows and keeps, and whether a gate would start on it."""

from dataclasses import replace

from gateway.app.ledger_server import DECLARED, LEDGER_FOLDER, examine, say_away
from gateway.app.parts import CannotStart
from gateway.ledger.client.embedded import running_socket
from gateway.ledger.client.endpoint import Endpoint
from gateway.ledger.client.errors import LedgerUnavailable
from gateway.ledger.client.servers import Servers, locate
from gateway.ledger.client.survey.ledger import LedgerSurvey, survey_ledger
from gateway.ledger.codec.key_names import Keys
from gateway.ledger.creation import Creation, OtherLedger
from gateway.operations.ledger_report import LedgerReport
from gateway.settings import Settings

TIMEOUT_S = 5.0
"""For one answer."""


async def report_ledger(settings: Settings) -> LedgerReport:
    """Ask it. An embedded ledger that does not run is not started. Raises BadLedgerUrl.

    The refusal has the words with which a gate that starts now refuses.
    """
    url = settings.redis.connection_url()
    if url is not None:
        return await _ask(settings, locate(url))
    socket = running_socket(settings.data_dir / LEDGER_FOLDER)
    if socket is None:
        return LedgerReport(LedgerSurvey("embedded", "embedded", ()), None)
    report = await _ask(settings, Endpoint.from_socket(socket))
    return replace(report, survey=replace(report.survey, topology="embedded"))


async def _ask(settings: Settings, servers: Servers) -> LedgerReport:
    section = settings.redis
    keys, declared = Keys(section.namespace, section.shards), DECLARED[section.durability]
    client = servers.client(name="creditgate-check", timeout_s=TIMEOUT_S)
    survey = LedgerSurvey.unasked(servers.shown)
    try:
        survey = await survey_ledger(client, servers.shown, keys, declared)
        await examine(client, section.namespace, user=servers.user, declared=declared)
        await Creation(client, keys).check()
        refusal = None
    except (CannotStart, OtherLedger) as error:
        refusal = str(error)
    except LedgerUnavailable as error:
        refusal = say_away(servers.shown, error)
    finally:
        await client.aclose()
    return LedgerReport(survey, refusal)
