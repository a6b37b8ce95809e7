"""The operations' face for programs and browsers: the admin API and the console, in one process.

| module | |
|---|---|
| `service.py` | the process' service: uvicorn on the socket, reload, drain |
| `app.py` | the application: every router is listed there |
| `context.py` | what handlers work on |
| `boundary.py` | what every request passes: Host, Origin, size, headers, a last resort for faults |
| `auth/` | roles, tokens, sessions, sign-in |
| `api/` | `/api/v1`: one router per resource |
| `console/` | `/console`: pages, templates, static files |
"""
