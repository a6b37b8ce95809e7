"""Webhooks that other systems call: paths that are public, and open to a valid signature only.

router      the routes
signatures  whether a sender knows the secret
stripe      Stripe's events → reports of payments
source      our own JSON for any other system → reports of payments
reading     typed values out of untyped JSON
"""
