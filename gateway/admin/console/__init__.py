"""The console: pages for people who operate a gate, rendered on the server.

Pages read through `operations/` and change nothing by GET. What is shown works without JavaScript;
scripts add live figures, charts, dialogs and relative times.

- `routes`       one router with every page and the static files
- `rendering`    templates, filters, what every page has in common
- `forms`        reading forms; idempotency keys; results
- `charts`       paths and scales of charts, as values
- `projection`   how long a balance lasts
- `feed`, `live` the figures of *Now*, sampled once for all viewers, and their stream
- `pages/`       one module per page
- `templates/`, `static/` what they are rendered with; `static/vendor/` is other people's code
"""
