# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx2==2.16.2"]
# ///
"""WRONG: takes a silence for a failure.

This is client.py with httpx2's own timeout, which is five seconds.

- Run: `uv run wrong_timeout.py`
- or: `pip install httpx2==2.16.2 && python wrong_timeout.py`
- Needs: server.py, running; its address is in URL
  (default http://127.0.0.1:8000)
- Source: server-sent events, WHATWG HTML §9.2,
  https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import os
import sys

import httpx2

URL = os.environ.get("URL", "http://127.0.0.1:8000")
SECONDS = float(os.environ.get("SECONDS", 4.5))  # the job's length


async def submit(client, seconds):
    """Start a job of so many seconds; return the URL to ask at."""
    answer = await client.post(f"{URL}/jobs", json={"seconds": seconds})
    answer.raise_for_status()
    return answer.url.join(answer.headers["Location"])


# --8<-- [start:listen]
async def listen(client, url):
    """Print a job's events as they come; return what the last says.

    The last one has the name done or failed.
    """
    async with client.sse(url) as source:
        source.response.raise_for_status()
        async for event in source:
            match event.event:
                case "progress":
                    print(event.json()["percent"], "%", flush=True)
                case "done" | "failed":
                    return event.event, event.json()
    sys.exit("the stream ended before the job did")
# --8<-- [end:listen]


async def main():
    # --8<-- [start:timeout]
    async with httpx2.AsyncClient() as client:
        # --8<-- [end:timeout]
        job = await submit(client, SECONDS)
        status, data = await listen(client, f"{job}/events")
    if status == "failed":
        sys.exit(f"the job failed: {data['error']}")
    print("the result is", data["result"])


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except httpx2.HTTPStatusError as error:
        sys.exit(f"{URL} answered {error.response.status_code}")
    except (httpx2.SSEError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"{URL} does not answer as a job server: {error!r}")
    except httpx2.HTTPError as error:
        sys.exit(f"no answer from {URL}: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
