"""Sign-in at an OpenID Connect provider: authorization code with PKCE, state and nonce.

What the browser brings back is checked against a signed cookie that lasts for some minutes. That cookie is
SameSite=Lax, because the provider's redirect comes from another site; the session's cookie is Strict, so
the callback answers with a page instead of a redirect, which would not send it.
"""

from collections.abc import Mapping
from typing import Any, Final

import httpx2
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import OAuth
from fastapi import APIRouter
from itsdangerous import BadData, URLSafeTimedSerializer
from joserfc.errors import JoseError
from starlette.requests import Request
from starlette.responses import Response

from gateway.admin.api.errors import ApiError
from gateway.admin.auth.sign_in import sign_in_form, signed_in
from gateway.admin.context import AdminContext, context_of
from gateway.domain.access import ROLES, Role
from gateway.domain.actors import Actor
from gateway.ledger.codec.admin_records import SignIn
from gateway.settings.console import OidcSection
from gateway.telemetry.logs import failure

log = structlog.get_logger("admin")
router = APIRouter(include_in_schema=False)

CALLBACK: Final = "/console/oidc/callback"
_COOKIE: Final = "creditgate_oidc"
_FOLDER: Final = "/console/oidc"
_STATE_S: Final = 600
_TIMEOUT_S: Final = 10.0
_NAME_CHARS_MOST: Final = 200


@router.get("/console/oidc/start")
async def start(request: Request) -> Response:
    """Send the browser to the provider."""
    context = context_of(request)
    section = _section(context)
    request.scope["session"] = {}
    try:
        response: Response = await _client(section).authorize_redirect(
            request, context.site.base_url + CALLBACK
        )
    except (httpx2.HTTPError, AuthlibBaseError, ValueError) as error:
        return _unavailable(request, context, error)
    response.set_cookie(
        _COOKIE,
        _signer(section).dumps(request.scope["session"]),
        max_age=_STATE_S,
        path=_FOLDER,
        secure=context.site.secure,
        httponly=True,
        samesite="lax",
    )
    return response


@router.get(CALLBACK)
async def callback(request: Request) -> Response:
    """Sign in whoever comes back with a valid answer of the provider."""
    context = context_of(request)
    section = _section(context)
    try:
        request.scope["session"] = _signer(section).loads(
            request.cookies.get(_COOKIE, ""), max_age=_STATE_S
        )
        claims = await _claims(section, request)
    except (BadData, AuthlibBaseError, JoseError) as error:
        log.warning("sign_in_refused", **failure(error))
        response = sign_in_form(request, context, ApiError("sign_in_refused", _REFUSED))
    except (httpx2.HTTPError, ValueError) as error:
        response = _unavailable(request, context, error)
    else:
        found = person(section, claims)
        if found is None:
            response = sign_in_form(request, context, ApiError("sign_in_refused", _NO_ROLE))
        else:
            response = await signed_in(request, context, found)
    response.delete_cookie(_COOKIE, path=_FOLDER)
    return response


_REFUSED: Final = "The sign-in at the provider was not completed, or took too long. Try again."
_NO_ROLE: Final = "You have no role here. An administrator grants roles at the provider."


def person(section: OidcSection, claims: Mapping[str, Any]) -> SignIn | None:
    """Who signs in, with the role that has most rights; None for somebody without any."""
    given = claims.get(section.claim)
    listed = given if isinstance(given, list) else [given]
    values = {each for each in listed if isinstance(each, str)}
    roles: set[Role] = {section.roles[value] for value in values & section.roles.keys()}
    if not roles:
        return None
    verified = claims.get("email") if claims.get("email_verified") is True else None
    name = str(verified or claims["sub"])[:_NAME_CHARS_MOST]
    return SignIn(Actor("user", name), max(roles, key=ROLES.index))


async def _claims(section: OidcSection, request: Request) -> Mapping[str, Any]:
    """The claims of a valid ID token. Raises AuthlibBaseError, JoseError, HTTPError."""
    client = _client(section)
    metadata = await client.load_server_metadata()
    if str(metadata.get("issuer", "")).rstrip("/") != section.issuer.rstrip("/"):
        raise ValueError("the provider's document names another issuer")
    expected = {
        "iss": {"essential": True, "values": [metadata["issuer"]]},
        "aud": {"essential": True, "values": [section.client_id]},
    }
    token = await client.authorize_access_token(request, claims_options=expected)
    if "userinfo" not in token:
        raise AuthlibBaseError("missing_id_token", "The provider sent no ID token.")
    claims: Mapping[str, Any] = token["userinfo"]
    return claims


def _client(section: OidcSection) -> Any:
    oauth = OAuth()
    oauth.register(
        "provider",
        client_id=section.client_id,
        client_secret=section.client_secret.get_secret_value(),
        server_metadata_url=f"{section.issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={
            "scope": "openid email profile",
            "code_challenge_method": "S256",
            "timeout": _TIMEOUT_S,
        },
    )
    return oauth.create_client("provider")


def _signer(section: OidcSection) -> URLSafeTimedSerializer:
    """Every admin process of a configuration can read what another one has signed."""
    return URLSafeTimedSerializer(
        section.client_secret.get_secret_value(), "creditgate console oidc"
    )


def _section(context: AdminContext) -> OidcSection:
    section = context.settings.console.oidc
    if section is None:
        raise ApiError("route_unknown")
    return section


def _unavailable(request: Request, context: AdminContext, error: Exception) -> Response:
    log.error("sign_in_provider_unavailable", **failure(error))
    return sign_in_form(request, context, ApiError("provider_unavailable"))
