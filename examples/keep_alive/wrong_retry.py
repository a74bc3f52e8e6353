# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Wrong: retries every request without a response, orders too.

- Run: `uv run wrong_retry.py`
- or: `pip install httpx2==2.16.2 && python wrong_retry.py`
- Needs: server_impatient.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Retrying requests, RFC 9112 §9.3.1 and RFC 9110 §9.2.2
"""

import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")

# --8<-- [start:limits]
# The client must drop an idle connection before the server does: this
# must be shorter than any idle timeout on the path.
LIMITS = httpx2.Limits(
    max_connections=100,  # if omitted, these two are unlimited
    max_keepalive_connections=20,
    keepalive_expiry=4,  # seconds
)
# --8<-- [end:limits]


class ProtocolError(Exception):
    """The response is not one of the order server's."""


# --8<-- [start:request]
def send_request(client, method, key=None):
    """Send a request; retry it once if that can do no harm.

    With a key, the server recognizes a request that it has processed.
    """
    headers = {"Idempotency-Key": key} if key else {}
    try:
        return client.request(method, URL, headers=headers)
    except httpx2.TransportError as error:
        print(f"{method} failed, retrying: {error!r}")
    # Other connections of the pool may be closed as well.
    with httpx2.Client() as new_client:
        return new_client.request(method, URL, headers=headers)
# --8<-- [end:request]


def parse_number(response, name):
    """Return the number in a JSON object; raise ProtocolError."""
    try:
        number = response.raise_for_status().json()[name]
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ProtocolError(f"no {name} in the response") from error
    if type(number) is not int:
        raise ProtocolError(f"{name} is not a number: {number!r}")
    return number


# --8<-- [start:main]
def main():
    with httpx2.Client(limits=LIMITS) as client:
        before = parse_number(send_request(client, "GET"), "orders")
        for _ in range(2):
            response = send_request(client, "POST")
            print("order", parse_number(response, "order"))
        after = parse_number(send_request(client, "GET"), "orders")
    print(f"2 orders sent, {after - before} placed")
# --8<-- [end:main]


if __name__ == "__main__":
    try:
        main()
    except (ImportError, ValueError) as error:
        names = [n for n in os.environ if n.lower().endswith("_proxy")]
        sys.exit(f"cannot use {' or '.join(names)}: {error}")
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} responded with {error.response.status_code}")
    except httpx2.HTTPError as error:
        sys.exit(f"cannot reach {URL}: {error!r}")
    except ProtocolError as error:
        sys.exit(f"{URL} is not the order server: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
