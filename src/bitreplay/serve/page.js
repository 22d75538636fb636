// The page of one device: looks, teaches, shows what is known.  All truth is the server's; this asks for it and shows it.
"use strict";

const $ = (id) => document.getElementById(id);
const api = "api/v1/";
const BURST_EVERY = 120;  // ms between two pictures of a burst
const MOST = 200;         // pictures of a burst
const PHASES = { latents: "looking at the pictures", train: "training", tail: "training the tail" };  // of a lesson
let known = null;         // the last state
let stream = null;        // of the browser's camera
let eye = false;          // whether the device's camera is looked through
let chosen = [];          // pictures that were chosen, as files
let lost = false;         // whether the device did not answer, or not this page
let asked = 0, said = 0;  // pictures looked at, and the last one whose answer is shown
let looking = false, held = null, sending = false;
let token = takeToken();  // asked for off localhost

// Read aloud when they change: so they are written only when they change.
function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function count(pictures) { return `${pictures} ${pictures === 1 ? "picture" : "pictures"}`; }

// What goes wrong stays until the user does something else.
function tell(text, bad = false) {
  write(bad ? "trouble" : "status", text);
}

// Buttons stay where the keyboard is, and do nothing while they are off.
function enable(id, on) { $(id).setAttribute("aria-disabled", String(!on)); }
function isOff(id) { return $(id).getAttribute("aria-disabled") === "true"; }

// From the address that serve printed; then it is taken out of the address, so that it is not in bookmarks or pictures of the screen.
function takeToken() {
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

async function fetched(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  try {
    answer = await fetch(api + path, { ...options, headers });
  } catch {
    lost = true;
    throw new Error("The device does not answer. Is bitreplay serve still running?");
  }
  $("enter").hidden = answer.status !== 401;
  if (answer.status !== 401 && lost) tell("", true);  // it is back
  lost = answer.status === 401;
  if (lost) throw new Error(token ? "That is not the token that the device printed." : "The device asks for its token.");
  if (!answer.ok) {
    const value = await answer.json().catch(() => ({}));
    throw new Error(value.error || `The device answered ${answer.status}.`);
  }
  return answer;
}

async function ask(path, options) {
  return (await fetched(path, options)).json();
}

// What is known ------------------------------------------------------------------------------------------------------------------

function number(value) { return value.toLocaleString("en"); }

function cell(text, className = "") {
  const td = document.createElement("td");
  td.textContent = text;
  td.className = className;
  return td;
}

function button(text, label, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", action);
  return made;
}

function show(state) {
  const changed = known === null || known.revision !== state.revision;
  known = state;
  const busy = state.busy;
  $("going").hidden = !busy;
  $("stop").hidden = !(busy && ["learning", "merging"].includes(busy.what));
  if (busy) {
    if (busy.total) $("progress").value = busy.done / busy.total; else $("progress").removeAttribute("value");
    tell(`${busy.what[0].toUpperCase()}${busy.what.slice(1)}${busy.phase ? `: ${PHASES[busy.phase] || busy.phase}` : ""}…`);
  } else if (!sending) {
    tell(state.note || (state.classes.length ? `Knows ${state.classes.length} ${state.classes.length === 1 ? "thing" : "things"}.` : "Ready. It knows nothing yet."));
  }
  $("eye").hidden = !state.camera;
  buttons();
  if (!changed) return;
  $("nothing").hidden = state.classes.length > 0;
  $("classes").hidden = state.classes.length === 0;
  const at = document.activeElement.closest("tbody") ? document.activeElement.getAttribute("aria-label") : null;
  $("classes").tBodies[0].replaceChildren(...state.classes.map((entry) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = entry.name;
    const change = cell("");
    change.append(
      button("Rename", `Rename ${entry.name}`, () => rename(entry.name)),
      button("Forget", `Forget ${entry.name}`, () => forget(entry.name)));
    head.dir = "auto";
    row.append(head, cell(number(entry.samples), "number"), cell(number(entry.replay_rows), "number"),
      cell(entry.replay_accuracy === null ? "" : `${Math.round(100 * entry.replay_accuracy)} %`, "number"), change);
    return row;
  }));
  if (at) [...$("classes").querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === at)?.focus();
  if (at && document.activeElement === document.body) $("knows-title").focus();  // its row has gone
  $("known").replaceChildren(...state.classes.map((entry) => Object.assign(document.createElement("option"), { value: entry.name })));
  $("rows").textContent = `${number(state.replay_rows)} of ${number(state.capacity)} remembered pictures, ${number(state.bytes.replay_row)} bytes each.`;
  $("meter").max = Math.max(1, state.capacity);
  $("meter").value = state.replay_rows;
  $("bytes").tBodies[0].replaceChildren(...Object.entries(state.bytes).map(([what, bytes]) => {
    const row = document.createElement("tr");
    row.append(cell(what.replaceAll("_", " ")), cell(number(bytes), "number"));
    return row;
  }));
}

function buttons() {
  const free = known !== null && known.busy === null && !sending;
  enable("hold", (stream || eye) && (free || held));
  enable("send", chosen.length && free);
  enable("undo", free && known.can_undo);
}

async function refresh() {
  try {
    show(await ask("state"));
  } catch (error) {
    tell(error.message, true);
  }
}

async function watch() {
  await refresh();
  setTimeout(watch, known && known.busy ? 200 : 1000);
}

async function change(text, path, options) {
  sending = true;
  tell("", true);
  tell(text);
  buttons();
  try {
    const value = await ask(path, options);
    sending = false;
    await refresh();
    return value;
  } catch (error) {
    sending = false;
    buttons();
    tell(error.message, true);
    return null;
  }
}

function forget(name) {
  const tail = known.trains_tail ? "\nThe trained tail stays as it is." : "";
  if (confirm(`Forget ${name}? Nothing of it is kept, and this cannot be undone.${tail}`)) {
    change(`Forgetting ${name}…`, `classes/${encodeURIComponent(name)}`, { method: "DELETE" });
  }
}

function rename(name) {
  const wanted = prompt(`What shall ${name} be called?`, name);
  if (wanted && wanted !== name) {
    const body = JSON.stringify({ name: wanted });
    change("Renaming…", `classes/${encodeURIComponent(name)}`, { method: "PATCH", headers: { "Content-Type": "application/json" }, body });
  }
}

// Looking ------------------------------------------------------------------------------------------------------------------------

const canvas = document.createElement("canvas");

// The middle square of the camera's picture as the network wants it, and a little more: the device brings it to size.
async function frame() {
  if (eye) {
    const picture = await (await fetched("camera")).blob();
    const before = $("frame").src;
    $("frame").src = URL.createObjectURL(picture);
    if (before) URL.revokeObjectURL(before);
    return picture;
  }
  const video = $("video"), side = Math.min(video.videoWidth, video.videoHeight);
  canvas.width = canvas.height = 2 * known.image_size;
  canvas.getContext("2d").drawImage(video, (video.videoWidth - side) / 2, (video.videoHeight - side) / 2, side, side, 0, 0, canvas.width, canvas.height);
  // toBlob waits until the browser has nothing better to do: 20 ms on a small machine, where this takes half of one.
  const text = atob(canvas.toDataURL("image/jpeg", 0.92).split(",")[1]);
  return new Blob([Uint8Array.from(text, (letter) => letter.charCodeAt(0))], { type: "image/jpeg" });
}

function say(answer) {
  write("answer", !answer ? "" : answer.unknown ? "unknown" : answer.name);
  const best = answer ? Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 5) : [];
  $("guesses").replaceChildren(...best.map(([name, p]) => {
    const item = document.createElement("li");
    item.style.setProperty("--p", p);
    const what = document.createElement("span"), share = document.createElement("span");
    what.textContent = name;
    what.dir = "auto";
    share.textContent = `${Math.round(100 * p)} %`;
    item.append(what, share);
    return item;
  }));
}

async function look(picture) {
  if (!known || known.classes.length === 0) return say(null);
  const turn = ++asked;
  try {
    const answer = await ask($("unsure").checked ? "predict?reject=0.1" : "predict", { method: "POST", body: picture });
    if (turn > said) say(answer);
    said = Math.max(turn, said);
  } catch (error) {
    await trouble(error);
  }
}

async function trouble(error) {
  tell(error.message, true);
  await new Promise((done) => setTimeout(done, 1000));
}

// Two at a time: while an answer is on its way, the next picture goes out.
async function live() {
  if (looking) return;
  looking = true;
  await Promise.all([lookOn(), lookOn()]);
  looking = false;
}

async function lookOn() {
  while (stream || eye) {
    if (known && (eye || $("video").videoWidth) && !document.hidden) {
      try {
        await look(await frame());
      } catch (error) {
        await trouble(error);
      }
    }
    await new Promise(requestAnimationFrame);
  }
}

function dark() {
  tell("", true);
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  eye = false;
  said = asked;  // answers that are still on their way are not shown
  $("video").hidden = $("frame").hidden = true;
  $("camera").textContent = "Start camera";
  $("eye").textContent = "Start the device's camera";
  say(null);
  still();
  buttons();
}

function device() {
  const start = !eye;
  dark();
  if (!start) return;
  choose([]);
  eye = true;
  $("frame").hidden = false;
  $("empty").hidden = true;
  $("eye").textContent = "Stop the device's camera";
  buttons();
  live();
}

async function camera() {
  const stop = stream !== null;
  dark();
  if (stop) return;
  if (!navigator.mediaDevices) return tell("This browser gives no access to a camera here. Choose pictures instead.", true);
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return tell(`No camera: ${error.message}. Choose pictures instead.`, true);
  }
  choose([]);
  $("video").srcObject = stream;
  $("video").hidden = false;
  $("empty").hidden = true;
  $("camera").textContent = "Stop camera";
  await $("video").play();
  buttons();
  live();
}

function still() {
  $("still").hidden = chosen.length === 0;
  $("empty").hidden = chosen.length > 0 || stream !== null || eye;
  if ($("still").src) URL.revokeObjectURL($("still").src);
  if (chosen.length) {
    $("still").src = URL.createObjectURL(chosen[0]);
    $("still").alt = chosen[0].name;
  }
}

function choose(files) {
  tell("", true);
  chosen = [...files].filter((file) => file.type.startsWith("image/"));
  if (chosen.length && (stream || eye)) dark();
  still();
  $("send").textContent = chosen.length ? `Teach ${chosen.length} chosen ${chosen.length === 1 ? "picture" : "pictures"}` : "Teach chosen pictures";
  buttons();
  if (chosen.length) look(chosen[0]);
}

// Teaching -----------------------------------------------------------------------------------------------------------------------

async function teach(pictures) {
  const name = $("name").value.trim();
  if (!name) {
    $("name").focus();
    return tell("First say what it is: type its name.", true);
  }
  const form = new FormData();
  form.append("name", name);
  pictures.forEach((picture, i) => form.append("picture", picture, `${i}.jpg`));
  const done = await change(`Learning ${count(pictures.length)} of ${name}…`, "lessons", { method: "POST", body: form });
  if (done) $("burst").textContent = `Learned ${count(done.pictures)} of ${done.name} in ${done.seconds.toFixed(1)} s.`;
  if (done) tell($("burst").textContent);
  if (done && chosen.length) look(chosen[0]);
}

async function hold() {
  if (held || !(stream || eye) || isOff("hold")) return;
  if (!$("name").value.trim()) {
    $("name").focus();
    return tell("First say what it is: type its name.", true);
  }
  const burst = held = [];
  $("hold").classList.add("held");
  while (held === burst && burst.length < MOST) {
    try {
      burst.push(await frame());
    } catch (error) {
      release();
      return tell(error.message, true);
    }
    $("burst").textContent = count(burst.length);
    await new Promise((done) => setTimeout(done, BURST_EVERY));
  }
  release();
  await teach(burst);
}

function release() {
  held = null;
  $("hold").classList.remove("held");
}

async function download() {
  try {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await (await fetched("file")).blob()), download: "bitreplay.state" });
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) {
    tell(error.message, true);
  }
}

function send(input, question, text, path, method) {
  const [file] = $(input).files;
  $(input).value = "";
  if (file && confirm(question(file.name))) change(text, path, { method, body: file });
}

$("camera").addEventListener("click", camera);
$("eye").addEventListener("click", device);
$("unsure").addEventListener("change", () => { if (chosen.length) look(chosen[0]); });
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("token", token);
  refresh();
});
$("download").addEventListener("click", download);
$("files").addEventListener("change", () => choose($("files").files));
$("hold").addEventListener("pointerdown", (event) => { event.preventDefault(); $("hold").focus(); hold(); });
$("hold").addEventListener("keydown", (event) => { if ((event.key === " " || event.key === "Enter") && !event.repeat) { event.preventDefault(); hold(); } });
for (const event of ["pointerup", "pointercancel", "keyup", "blur"]) $("hold").addEventListener(event, release);
addEventListener("pointerup", release);
$("hold").addEventListener("contextmenu", (event) => event.preventDefault());
$("lesson").addEventListener("submit", (event) => { event.preventDefault(); if (chosen.length && !isOff("send")) teach(chosen); });
$("stop").addEventListener("click", () => ask("stop", { method: "POST" }).catch(trouble));
$("undo").addEventListener("click", () => isOff("undo") || change("Undoing…", "undo", { method: "POST" }));
$("upload").addEventListener("change", () => send("upload", (name) => `Replace what the device knows with ${name}? Undo takes it back.`, "Uploading…", "file", "PUT"));
$("merge").addEventListener("change", () => send("merge", (name) => `Learn what ${name} knows? Undo takes it back.`, "Merging…", "merge", "POST"));
$("view").addEventListener("dragover", (event) => { event.preventDefault(); $("view").classList.add("over"); });
$("view").addEventListener("dragleave", () => $("view").classList.remove("over"));
$("view").addEventListener("drop", (event) => { event.preventDefault(); $("view").classList.remove("over"); choose(event.dataTransfer.files); });
watch();
