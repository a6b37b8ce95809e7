"""YAML to frozen values; every mistake at once, with file, line and path.

`loading` reads a file (`load_settings`); `document` keeps the position of every value;
`interpolate` fills in references; `scalars` reads each kind of value.

`root` is the complete configuration; `servers`, `upstreams`, `catalogue`, `customers`, `policy`,
`prices`, `metering` and `signals` are its sections. `default_routes` are those of a file without routes.

`checks` tests whether the parts fit together; `compiling` builds what the flow takes: catalog,
customers, keys; `forwarding` which headers pass to and from each upstream.

`problems` and `explaining` word the mistakes; `schema` and `reference` generate the editor's
schema and the reference page.
"""

from gateway.settings.loading import load_settings
from gateway.settings.problems import Problem, SettingsError
from gateway.settings.root import Settings

__all__ = ["Problem", "Settings", "SettingsError", "load_settings"]
