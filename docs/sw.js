// Keeps the site readable offline: the network first, and what it returned before otherwise.

const CACHE = "site";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// A page asks for it once, when it has been loaded: see assets/site.js.
self.addEventListener("message", (event) => {
  if (event.data === "keep all") event.waitUntil(keepAll());
});

async function keepAll() {
  const cache = await caches.open(CACHE);
  const list = await fetch("offline.json");
  if (!list.ok) return;
  for (const path of await list.json()) {
    const url = new URL(path, self.registration.scope);
    // One after the other, so that the reader's own requests come first.
    if (!(await cache.match(url))) await cache.add(url).catch(() => {});
  }
}

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const path = new URL(url).pathname;
  // What is live is live, and is not kept.
  if (method === "GET" && url.startsWith(self.registration.scope) && !path.includes("/live"))
    event.respondWith(networkFirst(event.request));
});

async function networkFirst(request) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
