# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Send ten requests with one client, then ten with a client each.

- Run: `uv run client.py`
- or: `pip install httpx2==2.16.2 && python client.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Persistence, RFC 9112 §9.3
"""

import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
REQUESTS = 10


# --8<-- [start:request]
def send_request(client):
    """Send a request, and print which connection carried it."""
    response = client.get(URL).raise_for_status()
    print(response.text)
# --8<-- [end:request]


# --8<-- [start:both]
def main():
    print("One client for all requests")
    with httpx2.Client() as client:
        for _ in range(REQUESTS):
            send_request(client)
    print("A client for each request")
    for _ in range(REQUESTS):
        with httpx2.Client() as client:
            send_request(client)
# --8<-- [end:both]


if __name__ == "__main__":
    try:
        main()
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except (ImportError, httpx2.HTTPError) as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
