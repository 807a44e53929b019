"""A simulated HighLevel API: an account in memory that pages, lags, throttles and fails as the real one does.

For tests, the demo and benchmarks. It knows nothing of the rest of the project, and nothing but those import it.
Read `sandbox` first (the account as one object), then `exchange` (one request), `world` (what changes do),
`shapes` and `search` (what the wire shows).
"""

from .app import create_app
from .faults import FaultPlan
from .oauth import APP_ID, CLIENT_ID, CLIENT_SECRET, COMPANY_ID
from .options import DEFAULT_LOCATION_ID, DEFAULT_TOKEN, RateLimit, SandboxOptions, location_id, token_of
from .sandbox import Call, Sandbox
from .serve import running, serve
from .world import Location, UnknownIdError

__all__ = [
    "APP_ID",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "COMPANY_ID",
    "DEFAULT_LOCATION_ID",
    "DEFAULT_TOKEN",
    "Call",
    "FaultPlan",
    "Location",
    "RateLimit",
    "Sandbox",
    "SandboxOptions",
    "UnknownIdError",
    "create_app",
    "location_id",
    "running",
    "serve",
    "token_of",
]
