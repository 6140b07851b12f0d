/* The inline stub: keeps calls until tag.js is there. `{{script}}` is its address. */
!(function (w, d) {
  if (w.pintrk) return;
  var p = (w.pintrk = function () {
    p.queue.push(arguments);
  });
  p.queue = [];
  p.version = "3.0";
  var s = d.createElement("script");
  s.async = 1;
  s.src = "{{script}}";
  d.head.appendChild(s);
})(window, document);
