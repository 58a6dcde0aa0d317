// Once loaded, the page works without its server: what it loaded is kept, and given back when the server does not answer.

const KEPT = 'faceeraser';

self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('fetch', (event) => {
  const {request} = event;
  if (request.method !== 'GET' || new URL(request.url).origin !== self.location.origin) return;
  event.respondWith(answer(request));
});

/** The server's answer, or where there is none, what was kept: so a new build is seen at once. */
async function answer(request) {
  const kept = await caches.open(KEPT);
  try {
    const response = await fetch(request);
    if (response.ok) await kept.put(request, response.clone());
    return response;
  } catch (error) {
    const earlier = await kept.match(request, {ignoreSearch: true});
    if (earlier) return earlier;
    throw error;
  }
}
