// The token comes in the fragment, which browsers send nowhere; it is exchanged for a cookie and leaves the address.
(function () {
  const found = window.location.hash.match(/^#token=([\w-]+)$/);
  if (!found) return;
  window.history.replaceState(null, "", window.location.pathname + window.location.search);
  fetch("/login", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({token: found[1]}),
  }).then(() => window.location.reload());
})();
