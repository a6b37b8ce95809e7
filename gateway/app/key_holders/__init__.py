"""What customers see of their own usage, on the address that they call: local routes of a worker.

- `usage.py`: sums of usage, from the required store, with their moment
- `requests.py`: one request of the customer
- `reading.py`: the threads in which stores are read, bounded for each customer
- `links.py`: signed links to the page, and its cookies
- `page.py`: the page `/account`; `holder.py` gathers what it shows
- `routes.py`: the routes of all
"""
