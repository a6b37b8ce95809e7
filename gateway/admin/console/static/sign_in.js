// A sign-in link carries its one-time code behind the `#`, which browsers do not send to servers.
const code = location.hash.slice(1);
if (code.startsWith("cgl_")) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("secret").value = code;
  document.querySelector("form").submit();
}
