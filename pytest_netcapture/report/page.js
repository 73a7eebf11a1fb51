"use strict";
// What was recorded comes into the page as text only (textContent): it can neither script nor style it.
(() => {
  const HEIGHT = 24;
  const data = JSON.parse(document.getElementById("data").textContent);
  const [list, room, rows, detail, filter, count] =
    ["list", "room", "rows", "detail", "filter", "count"].map((id) => document.getElementById(id));
  const every = [];
  for (const test of data.tests) {
    const times = test.flows.flatMap((flow) => [flow.started, flow.ended]).filter((time) => time > 0);
    const first = Math.min(...times), last = Math.max(...times);
    test.span = [first, Math.max(last - first, 0.001)];
    const name = test.test.toLowerCase();
    every.push({ test, text: name });
    for (const flow of test.flows) {
      flow.bad = Boolean(flow.error) || flow.status >= 400 || ["blocked", "unmatched"].includes(flow.origin);
      every.push({ test, flow, text: `${flow.subject} ${flow.outcome} ${flow.process || ""}`.toLowerCase() });
    }
  }
  let shown = every, chosen = -1;

  function make(tag, text, name) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  }

  // host:x status:5 method:POST test:x is:failed body:x, and plain words; all must hold
  function parse(text) {
    return text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const [, key, value] = /^(host|status|method|test|is|body):(.*)$/.exec(word) || [];
      if (key === "host") return (row) => row.flow && String(row.flow.host).toLowerCase().includes(value);
      if (key === "status") return (row) => row.flow && String(row.flow.status || "").startsWith(value);
      if (key === "method") return (row) => row.flow && row.flow.request && row.flow.request.method.toLowerCase() === value;
      if (key === "test") return (row) => row.test.test.toLowerCase().includes(value);
      if (key === "is") return (row) => (value === "failed" ? row.test.failed : row.flow && (row.flow.origin === value || (value === "bad" && row.flow.bad)));
      if (key === "body") return (row) => row.flow && searchable(row.flow).includes(value);
      return (row) => row.text.includes(word);
    });
  }

  function searchable(flow) {
    if (flow.searchable === undefined) {
      const parts = [flow.request, flow.response].filter(Boolean).map((message) => message.body);
      flow.searchable = JSON.stringify([parts, flow.messages || [], flow.asked || "", flow.rows || []]).toLowerCase();
    }
    return flow.searchable;
  }

  function apply() {
    const tests = parse(filter.value);
    const flows = every.filter((row) => row.flow && tests.every((holds) => holds(row)));
    const with_flows = new Set(flows.map((row) => row.test));
    const kept = new Set(flows);
    const empty = (row) => !row.test.flows.length && tests.every((holds) => holds(row));
    shown = every.filter((row) => (row.flow ? kept.has(row) : with_flows.has(row.test) || empty(row)));
    count.textContent = `${flows.length} of ${every.length - data.tests.length} flows, ${data.tests.length} tests, ${data.made}`;
    room.style.height = `${shown.length * HEIGHT}px`;
    choose(-1);
  }

  function draw() {
    const from = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 10);
    const to = Math.min(shown.length, from + Math.ceil(list.clientHeight / HEIGHT) + 20);
    rows.style.top = `${from * HEIGHT}px`;
    rows.replaceChildren(...shown.slice(from, to).map((row, index) => line(row, from + index)));
  }

  function line(row, index) {
    const { test, flow } = row;
    const element = make("div", undefined, `row${flow ? "" : " test"}${index === chosen ? " chosen" : ""}`);
    element.setAttribute("role", "row");
    element.setAttribute("aria-rowindex", index + 1);
    if (index === chosen) element.setAttribute("aria-selected", "true");
    element.dataset.index = index;
    const cell = (text, name) => {
      const one = make("span", text, name);
      one.setAttribute("role", "gridcell");
      element.append(one);
      return one;
    };
    if (!flow) {
      cell(test.failed ? "failed" : "passed", test.failed ? "bad" : "good");
      cell(`\u00a0 ${test.test}`);
      return element;
    }
    const [verb, ...rest] = flow.subject.split(" ");
    cell(verb);
    cell(rest.join(" ")).title = flow.subject;
    cell(flow.outcome, flow.bad ? "bad" : "");
    cell(flow.origin === "live" ? "" : flow.origin, "soft");
    cell(flow.process ? `${flow.process}(${flow.pid})` : "", "soft");
    const way = cell("", "way");
    if (flow.started && flow.ended) {
      const bar = make("i");
      bar.style.left = `${(100 * (flow.started - test.span[0])) / test.span[1]}%`;
      bar.style.width = `${(100 * (flow.ended - flow.started)) / test.span[1]}%`;
      way.append(bar);
      way.title = `${(flow.ended - flow.started).toFixed(1)} ms`;
    }
    return element;
  }

  function choose(index) {
    chosen = Math.max(-1, Math.min(index, shown.length - 1));
    if (chosen >= 0) {
      const top = chosen * HEIGHT;
      if (top < list.scrollTop) list.scrollTop = top;
      if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
    }
    draw();
    describe(shown[chosen]);
  }

  function fields(pairs) {
    const element = make("dl");
    for (const [name, value] of pairs) element.append(make("dt", name), make("dd", String(value)));
    return element;
  }

  function describe(row) {
    detail.replaceChildren();
    if (!row) return void detail.append(make("p", "Choose a flow: click, or ↑ ↓. / filters, Esc goes back.", "soft"));
    const { test, flow } = row;
    if (!flow) return void detail.append(make("h2", test.test), make("p", `${test.flows.length} flows`), ...test.problems.map((text) => make("pre", text, "problem")));
    detail.append(make("h2", flow.subject), make("p", flow.outcome, flow.bad ? "bad" : ""));
    const facts = [["test", test.test], ["origin", flow.origin]];
    for (const name of ["address", "tls", "fault", "command", "side", "detail", "reason"]) if (flow[name]) facts.push([name, flow[name]]);
    if (flow.error) facts.push(["error", [flow.error.kind, flow.error.detail].filter(Boolean).join(": ")]);
    detail.append(fields(facts));
    for (const side of ["request", "response"]) if (flow[side]) message(side, flow[side]);
    if (flow.answers) section("answers", fields(flow.answers.map((one) => [`${one.type} ${one.ttl}`, one.data])));
    if (flow.asked) section("asked", make("pre", flow.asked));
    if (flow.parameters && flow.parameters.length) section("parameters", make("pre", JSON.stringify(flow.parameters)));
    if (flow.rows && flow.rows.length) section("rows", make("pre", [flow.columns, ...flow.rows].map((one) => one.join(" | ")).join("\n")));
    if (flow.told) section("told", make("pre", flow.told));
    if (flow.messages) {
      section("messages", fields(flow.messages.map((one) => [`${one.sent ? "→" : "←"} ${one.kind || ""} ${one.code || ""}`, spelled(one)])));
    }
  }

  function section(name, element) { detail.append(make("h2", name), element); }

  function message(side, one) {
    const start = side === "request" ? `${one.method} ${one.url}` : `${one.status} ${one.reason}`;
    section(`${side}: ${start} (HTTP/${one.http_version})`, fields(one.headers));
    if (one.body.size) {
      const coding = one.body.coding ? `, sent as ${one.body.coding}` : "";
      detail.append(make("p", `${one.body.size} bytes${coding}`, "soft"), make("pre", spelled(one.body)));
    }
    if (one.trailers) section("trailers", fields(one.trailers));
  }

  function spelled(one) {
    if (one.json !== undefined) return JSON.stringify(one.json, null, 2);
    if (one.text !== undefined) return one.text;
    if (one.base64 !== undefined) return hex(atob(one.base64));
    return one.size ? "(too large for the report)" : "";
  }

  function hex(data) {
    const lines = [];
    for (let at = 0; at < Math.min(data.length, 4096); at += 16) {
      const bytes = [...data.slice(at, at + 16)];
      const codes = bytes.map((byte) => byte.charCodeAt(0).toString(16).padStart(2, "0")).join(" ");
      lines.push(`${at.toString(16).padStart(6, "0")}  ${codes.padEnd(47)}  ${bytes.map((byte) => (byte >= " " && byte <= "~" ? byte : ".")).join("")}`);
    }
    return lines.join("\n");
  }

  list.addEventListener("scroll", draw, { passive: true });
  addEventListener("resize", draw);
  filter.addEventListener("input", () => { list.scrollTop = 0; apply(); });
  rows.addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) choose(Number(row.dataset.index));
  });
  addEventListener("keydown", (event) => {
    if (event.target === filter) {
      if (event.key === "Escape" || event.key === "Enter" || event.key === "ArrowDown") list.focus();
      return;
    }
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 20, PageUp: -20 }[event.key];
    if (event.key === "/") filter.focus();
    else if (event.key === "Escape") choose(-1);
    else if (step && event.target !== detail) choose(Math.max(0, chosen + step));
    else return;
    event.preventDefault();
  });
  apply();
})();
