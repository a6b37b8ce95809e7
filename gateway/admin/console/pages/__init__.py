"""One module per page: it reads through `operations/`, makes the page's view, and renders it."""
