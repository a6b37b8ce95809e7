"""YAML → frozen values; every mistake at once, with file, line and path.

- `loading`      `load_settings`: the way from a file to `Settings`
- `document`     YAML as values that know where they stand; `interpolate` fills in references
- `scalars`      how each kind of value is read
- `root`         the whole configuration; `servers`, `upstreams`, `catalogue`, `customers`,
                 `policy` are its sections
- `checks`       whether the parts fit together
- `compiling`    what the flow takes: catalog, customers, keys
- `problems`     how mistakes are told; `explaining` puts pydantic's errors into words
- `schema`, `reference`  the JSON Schema for editors, the reference page
"""

from gateway.settings.loading import load_settings
from gateway.settings.problems import Problem, SettingsError
from gateway.settings.root import Settings

__all__ = ["Problem", "Settings", "SettingsError", "load_settings"]
