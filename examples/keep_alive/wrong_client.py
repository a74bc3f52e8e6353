# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""Wrong: takes a connection that was kept for one that is open.

- Run: `uv run wrong_client.py`
- or: `pip install httpx2==2.16.2 && python wrong_client.py`
- Needs: server_impatient.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: Closing while a request is on its way, RFC 9112 §9.5
"""

import asyncio
import os

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")


# --8<-- [start:main]
async def main():
    for method in "GET", "POST":
        # To try again at connecting is not to ask again.
        transport = httpx2.AsyncHTTPTransport(retries=3)
        async with httpx2.AsyncClient(transport=transport) as client:
            for number in "first", "second":
                try:
                    answer = await client.request(method, URL)
                    print(method, number, answer.status_code)
                except httpx2.TransportError as error:
                    print(method, number, repr(error))
# --8<-- [end:main]


if __name__ == "__main__":
    asyncio.run(main())
