"""What the configuration gives a wallet: of its own customers, and of those in the ledger by their plan."""

import hashlib

from gateway.domain.customers import CustomerRecord
from gateway.ledger.codec.operations import NewAllowance, NewGrant
from gateway.operations.wallet_terms import WalletTerms
from gateway.settings.customers import GrantSection, PlanSection, RecurringGrantSection
from gateway.settings.root import Settings


def configured_terms(settings: Settings, customer_id: str) -> WalletTerms:
    """The terms of a customer of the configuration."""
    customer = settings.customers[customer_id]
    return WalletTerms(
        credit_limit_nano=settings.credit_limit_nano(customer_id),
        billing_day=settings.billing_day(customer_id),
        grants=tuple(
            (grant.name, new_grant(settings, grant))
            for _, grant in settings.starting_grants(customer_id)
        ),
        allowances=_allowances(settings, settings.recurring_grants(customer_id)),
        signals=settings.signals.rules(customer_id, customer.plan),
    )


def record_terms(settings: Settings, record: CustomerRecord) -> WalletTerms:
    """The terms of a customer in the ledger: its plan's, and its own in place of them.

    Raises KeyError if the plan is not configured.
    """
    plan = settings.plans[record.plan] if record.plan else PlanSection()
    own = record.credit_limit_nano
    return WalletTerms(
        credit_limit_nano=plan.credit_limit_nano if own is None else own,
        billing_day=record.billing_day or plan.billing_day,
        grants=tuple((grant.name, new_grant(settings, grant)) for grant in plan.grants),
        allowances=_allowances(settings, plan.recurring_grants),
        signals=settings.signals.rules(record.customer_id, record.plan),
    )


def plan_digests(settings: Settings) -> dict[str, str]:
    """By plan, "" for none: a digest of what it gives wallets."""
    alerts = hashlib.sha256(settings.signals.model_dump_json(exclude={"webhook"}).encode())
    return {
        name: record_terms(settings, CustomerRecord("", 0, name or None)).digest()
        + alerts.hexdigest()[:8]
        for name in ("", *settings.plans)
    }


def new_grant(settings: Settings, grant: GrantSection) -> NewGrant:
    """The terms of a starting grant."""
    return NewGrant(
        grant.amount_nano,
        category=grant.category,
        priority=grant.priority,
        scope_bits=settings.scope_bits(grant.groups),
        effective_at_ms=grant.effective_at_ms or 0,
        expires_at_ms=grant.expires_at_ms or 0,
    )


def _allowances(
    settings: Settings, grants: tuple[RecurringGrantSection, ...]
) -> tuple[NewAllowance, ...]:
    return tuple(
        NewAllowance(
            grant.name,
            grant.amount_nano,
            period=grant.every,
            rollover_max_nano=grant.rollover_max_nano,
            category=grant.category,
            priority=grant.priority,
            scope_bits=settings.scope_bits(grant.groups),
            day=grant.anchor_day or 0,
        )
        for grant in grants
    )
