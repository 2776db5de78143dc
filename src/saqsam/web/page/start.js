// Said by a classic script, which runs where modules cannot: in a page opened as a file, or in an old browser.
"use strict";
(function () {
  var message = null;
  if (location.protocol === "file:") {
    message = "This page was opened as a file, and browsers do not let such pages load a model. "
      + "Offer the folder by a server instead: saqsam serve FOLDER, or: python -m http.server --directory FOLDER";
  } else if (!("noModule" in HTMLScriptElement.prototype) || typeof OffscreenCanvas === "undefined") {
    message = "This browser is too old for this page. Take a current Firefox, Chrome, Edge or Safari.";
  }
  if (message) {
    var place = document.getElementById("fault");
    place.textContent = message;
    place.hidden = false;
    document.documentElement.className = "unusable";
  }
})();
