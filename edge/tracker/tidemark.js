// Tidemark's tracker: tells an edge of views, engaged time and load times of a page, without cookies. docs/edge.md says how to use it.
//
// Lines that are comments, and indentation, are left out when this is sent: no text may go over several lines.
(function () {
  var script = document.currentScript || document.querySelector("script[data-site]");
  var settings = script.dataset, site = settings.site || location.hostname.replace(/^www\./, "");
  var api = (settings.api || new URL(script.src).origin) + "/v1/collect";
  var before = window.tidemark;

  // Whoever asks not to be tracked is not: nothing is sent, stored or listened to.
  if ([navigator.doNotTrack, window.doNotTrack].indexOf("1") >= 0 || navigator.globalPrivacyControl) {
    window.tidemark = function () {};
    return;
  }

  // Events of this page that are in no post yet, and posts that no edge has taken where there is no storage.
  var waiting = [], memory = [], flushing, retrying;
  // The page as it is counted, where its visitor came from, and dimensions of all its events.
  var page = "", referrer = "", common = {};
  // Engaged time that was not told, when it was looked at, and until when the visitor counts as active.
  var engaged = 0, looked = 0, activeUntil = 0, visible = false;
  // The first view, the largest paint so far, and a load time that came too late for the view.
  var first, paint = 0, late = 0, loaded = false;

  for (var key in settings) {
    if (/^dim./.test(key)) common[key.slice(3).toLowerCase()] = settings[key];
  }

  function on(target, name, act) {
    target.addEventListener(name, act, { passive: true, capture: true });
  }

  // Posts stay stored until an edge has answered, so that whatever happens to this page the next one sends them.
  function stored() {
    try {
      return JSON.parse(localStorage.tidemark || "[]");
    } catch (e) {
      return memory;
    }
  }

  function store(posts) {
    memory = posts = posts.slice(-50);
    try {
      if (posts.length) localStorage.tidemark = JSON.stringify(posts);
      else localStorage.removeItem("tidemark");
    } catch (e) {}
  }

  // Takes a post off, or lets it be sent again.
  function settle(id, done) {
    store(stored().filter(function (post) {
      if (post.id == id) post.sent = 0;
      return post.id != id || !done;
    }));
  }

  function flush(leaving) {
    var now = Date.now(), posts = stored(), due;
    clearTimeout(flushing);
    flushing = 0;
    if (waiting.length) {
      posts.push({ site: site, id: now.toString(36) + Math.random().toString(36).slice(2), sent: 0, events: waiting });
      waiting = [];
    }
    // What was sent a moment ago is on its way, perhaps from another tab. The edge knows a post that comes twice by its id.
    due = posts.filter(function (post) {
      return Math.abs(now - post.sent) > 1e4 || leaving === true && !navigator.onLine;
    });
    due.forEach(function (post) {
      post.sent = now;
    });
    store(posts);
    due.forEach(function (post) {
      var body = JSON.stringify(post);
      // Nobody is left to hear a reply: a beacon that the browser takes is as good as sent, and the rest is the next page's.
      if (leaving === true) return settle(post.id, navigator.onLine && navigator.sendBeacon(api, body));
      // Plain text, so that the browser does not ask before.
      fetch(api, { method: "POST", body: body, keepalive: true, credentials: "omit" }).then(function (reply) {
        // What is refused for good is not sent again.
        if (reply.status == 429 || reply.status > 499) throw reply;
        settle(post.id, true);
      }).catch(function () {
        settle(post.id);
        again();
      });
    });
    if (due.length < posts.length) again();
  }

  function again() {
    clearTimeout(retrying);
    retrying = setTimeout(flush, 1e4 * (1 + Math.random()));
  }

  function add(kind, more) {
    more = more || {};
    var event = {
      kind: kind, url: more.url || page, referrer: referrer, time: Date.now(),
      dimensions: Object.assign({}, common, more.dimensions), values: Object.assign({}, more.values)
    };
    waiting.push(event);
    if (waiting.length > 19) flush();
    // A view waits for its load time, but not for ever.
    else flushing = flushing || setTimeout(flush, loaded ? 1e3 : 5e3);
    return event;
  }

  // Adds the time since it was called last, where somebody was there.
  function look() {
    var now = performance.now();
    if (visible && looked < activeUntil) engaged += Math.min(now - looked, 2e3);
    looked = now;
    visible = document.visibilityState == "visible";
    if (engaged > 15e3) tell();
  }

  function tell() {
    var values = { engaged_ms: Math.round(engaged) };
    if (!values.engaged_ms) return;
    engaged = 0;
    if (late) values.load_ms = late;
    late = 0;
    add("engage", { values: values });
  }

  function alive() {
    activeUntil = performance.now() + 3e4;
  }

  function view() {
    var here = location.href.split("#")[0];
    if (here == page) return;
    look();
    if (page) tell();
    late = 0;
    referrer = page || document.referrer;
    page = here;
    alive();
    return add("view");
  }

  function onLoad() {
    // The browser fills in its figures when this event is over; the largest paint may come a moment later.
    setTimeout(function () {
      var timing = performance.getEntriesByType("navigation")[0] || {};
      var ms = Math.round((paint || timing.loadEventEnd || 0) - (timing.activationStart || 0));
      loaded = true;
      if (ms > 0 && waiting.indexOf(first) >= 0) first.values.load_ms = ms;
      else if (ms > 0 && page == first.url) late = ms;
      flush();
    }, 300);
  }

  function start() {
    first = view();
    ["pushState", "replaceState"].forEach(function (name) {
      var original = history[name];
      history[name] = function () {
        var result = original.apply(this, arguments);
        view();
        return result;
      };
    });
    on(window, "popstate", view);
    ["pointermove", "pointerdown", "keydown", "scroll", "touchstart"].forEach(function (name) {
      on(window, name, alive);
    });
    setInterval(look, 1e3);
    on(document, "visibilitychange", function () {
      look();
      tell();
      if (visible) alive();
      // Offline, whatever comes next finds it in the storage.
      else flush(!navigator.onLine);
    });
    on(window, "pagehide", function () {
      look();
      tell();
      flush(true);
    });
    on(window, "pageshow", function (event) {
      // Back from the browser's own cache: nothing was loaded, and somebody looks at it again.
      if (event.persisted) page = "", view();
    });
    on(window, "online", flush);
    try {
      new PerformanceObserver(function (list) {
        paint = list.getEntries().pop().startTime;
      }).observe({ type: "largest-contentful-paint", buffered: true });
    } catch (e) {}
    if (document.readyState == "complete") onLoad();
    else on(window, "load", onLoad);
    // tidemark("share", { dimensions: {...}, values: {...} }): an event of any kind. What was called before this was loaded is in `q`.
    window.tidemark = add;
    ((before && before.q) || []).forEach(function (call) {
      add.apply(null, call);
    });
  }

  if (document.prerendering) on(document, "prerenderingchange", start);
  else start();
})();
