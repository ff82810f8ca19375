(() => {
'use strict';
// Three events may fail to come before the silence counts: one comes at least every 15 s.
const SILENT = 45, PATIENT = 3;
const $ = id => document.getElementById(id);
const live = $('live'), link = $('link'), lost = $('lost'), say = $('say');
let source, again = 0, wait = 1, tried = 0, heard = Date.now(), down = heard, at = +live.dataset.at, chosen = 0, told = false;

const span = seconds => {
const whole = Math.max(0, Math.trunc(seconds)), gap = '\u00a0';
if (whole >= 86400e5) return '> 99,999' + gap + 'd';
const days = Math.trunc(whole / 86400), hours = Math.trunc(whole / 3600) % 24;
const minutes = Math.trunc(whole / 60) % 60, rest = whole % 60;
for (const [large, unit, small, part] of [[days, 'd', hours, 'h'], [hours, 'h', minutes, 'min'], [minutes, 'min', rest, 's']])
if (large) return large + gap + unit + (small ? ' ' + small + gap + part : '');
return whole + gap + 's';
};

// An old number is worse than a lost selection: what is selected stands still for a minute at most.
const held = node => {
const selection = getSelection();
return Date.now() - chosen < 60000 && !selection.isCollapsed && selection.containsNode(node, true);
};
const write = (node, text) => {
if (node.data !== text && !held(node)) node.data = text;
};
const put = (element, text) => {
if (!element.firstChild) element.append(text);
else write(element.firstChild, text);
};

const alike = (one, other) => one.nodeName === other.nodeName && (one.nodeType !== 1 ||
one.id === other.id && one.getAttribute('class') === other.getAttribute('class'));
const become = (old, wanted) => {
if (old.isEqualNode(wanted)) return;
if (old.nodeType !== 1) return write(old, wanted.data);
// Whether details are open is the reader's choice.
for (const {name} of [...old.attributes]) if (!wanted.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
for (const {name, value} of wanted.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
let next = old.firstChild;
for (const child of [...wanted.childNodes]) {
let found = next;
while (found && !alike(found, child)) found = found.nextSibling;
if (!found) old.insertBefore(child, next);
else {
if (found === next) next = next.nextSibling;
else old.moveBefore ? old.moveBefore(found, next) : old.insertBefore(found, next);
become(found, child);
}
}
while (next) {
const gone = next;
next = next.nextSibling;
gone.remove();
}
};

const tick = () => {
const now = Date.now(), here = at + (now - heard) / 1000;
for (const each of live.querySelectorAll('[data-since]')) put(each, span(here - each.dataset.since));
for (const each of live.querySelectorAll('[data-until]')) {
const left = each.dataset.until - here;
put(each, left < 1 ? 'now' : span(left));
}
if (now - Math.max(heard, tried) > SILENT * 1000) connect();
const late = down && now - down > PATIENT * 1000, last = span((now - heard) / 1000) + ' ago';
link.dataset.state = late ? 'lost' : down ? 'wait' : 'live';
put(link, late ? 'Connection lost' : down ? 'Connecting' : 'Live, heard ' + last);
lost.hidden = !late;
if (late) put(lost, 'Connection to Forewarn lost: last heard ' + last + ', at ' + new Date(heard).toLocaleTimeString() +
'. What stands here is as old. Trying again.');
if (late && !told) say.textContent = 'Connection to Forewarn lost.';
if (told && !down) say.textContent = 'Connection to Forewarn is back.';
told = late || told && down;
};

const levels = () => new Map([...live.querySelectorAll('[data-watch]')].map(each => [each.dataset.watch, each]));
const icon = () => {
const favicon = $('icon');
if (favicon.getAttribute('href') !== live.dataset.icon) favicon.setAttribute('href', live.dataset.icon);
if (document.title !== live.dataset.title) document.title = live.dataset.title;
};

// What must not move: what is selected or focused, or else what comes first in the window.
const looked = () => {
const selection = getSelection(), chosen = selection.anchorNode && selection.anchorNode.parentElement;
const seen = each => {
const {top, height} = each.getBoundingClientRect();
return height && top >= 0 && top < innerHeight && live.contains(each);
};
return [!selection.isCollapsed && chosen && chosen.closest('tr, li, p, [id]'), document.activeElement].find(each => each && seen(each)) ||
[...live.querySelectorAll('[id]')].find(seen);
};

const show = html => {
const wanted = new DOMParser().parseFromString(html, 'text/html').getElementById('live');
if (wanted.dataset.made !== live.dataset.made && sessionStorage.made !== wanted.dataset.made) {
// Another Forewarn answers now. Once for each: two of them may take turns behind one address.
sessionStorage.made = wanted.dataset.made;
return location.reload();
}
const before = new Map([...levels()].map(([name, each]) => [name, each.dataset.level]));
const focused = document.activeElement;
const mark = scrollY > 0 && looked();
const top = mark && mark.getBoundingClientRect().top;
at = +wanted.dataset.at;
heard = Date.now();
down = 0;
wait = 1;
become(live, wanted);
if (mark && mark.isConnected) scrollBy({top: mark.getBoundingClientRect().top - top, behavior: 'instant'});
if (focused !== document.activeElement) {
const same = focused.isConnected ? focused : focused.id && $(focused.id);
if (same) same.focus({preventScroll: true});
}
icon();
tick();
const changed = [...levels()].filter(([name, each]) => before.get(name) !== each.dataset.level);
if (changed.length > 3) say.textContent = changed.length + ' servers have changed. ' + live.dataset.title;
else if (changed.length) say.textContent = changed.map(([name, each]) =>
name + ': ' + each.dataset.level + '. ' + each.querySelector('.said, .summary').textContent).join(' ');
};

const connect = () => {
if (source) source.close();
clearTimeout(again);
tried = Date.now();
if (!down) down = tried;
source = new EventSource('api/v1/events' + location.search);
source.addEventListener('live', event => show(event.data));
source.onerror = () => {
if (!down) down = Date.now();
// A refusal ends an EventSource for good; a broken line it mends by itself.
if (source.readyState === 2) again = setTimeout(connect, 1000 * (wait = Math.min(30, 2 * wait)));
};
};

document.addEventListener('selectionchange', () => { chosen = Date.now(); });
addEventListener('online', connect);
addEventListener('pageshow', event => { if (event.persisted) connect(); });
link.textContent = '';
setInterval(tick, 1000);
connect();
})();
