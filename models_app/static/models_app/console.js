// What the pages do beyond HTML: times in the viewer's zone, values under the pointer, and fresh contents.
// Every page can be read and used without it.

// Times

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" })
const precise = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" })

function localize(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const when = new Date(time.dateTime)
    if (Number.isNaN(when.valueOf())) continue
    time.textContent = format.format(when)
    time.title = precise.format(when)
  }
}

// Values of plots: the titles of the shapes become a box at the pointer, which appears at once.

const tip = document.createElement("div")
tip.className = "tip"
tip.hidden = true
document.body.append(tip)

function prepare(root) {
  for (const title of root.querySelectorAll(".plot svg title")) {
    title.parentElement.dataset.tip = title.textContent
    title.remove()
  }
}

function show(event) {
  const shape = event.target.closest?.("[data-tip]")
  tip.hidden = !shape
  if (!shape) return
  tip.textContent = shape.dataset.tip
  const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)
  tip.style.left = `${Math.max(8, left)}px`
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`
}

document.addEventListener("pointermove", show)
document.addEventListener("pointerdown", show)

// The menu on a phone

const menu = document.querySelector("button.menu")
menu?.addEventListener("click", () => {
  const open = menu.getAttribute("aria-expanded") !== "true"
  menu.setAttribute("aria-expanded", String(open))
})

// Fresh contents: only the part of the page that may change, after the seconds that it asks for, and never
// while the user works in it or reads the table of a plot.

function schedule() {
  const live = document.querySelector("#live[data-refresh]")
  if (live) setTimeout(() => refresh(live), 1000 * live.dataset.refresh)
}

async function refresh(live) {
  const isInUse = live.contains(document.activeElement) || live.querySelector("details[open]")
  if (!document.hidden && !isInUse) await replaceLive()
  schedule()
}

async function replaceLive() {
  const answer = await fetch(location.href).catch(() => null)
  if (!answer?.ok || answer.redirected) return // The server may be restarting, or the session has ended.
  const page = new DOMParser().parseFromString(await answer.text(), "text/html")
  const running = document.querySelector(".states .busy")?.textContent
  for (const part of [".states", "#live"]) {
    const fresh = page.querySelector(part)
    if (!fresh) continue
    localize(fresh)
    prepare(fresh)
    document.querySelector(part)?.replaceWith(document.adoptNode(fresh))
  }
  const runs = document.querySelector(".states .busy")?.textContent
  if (runs !== running)
    document.querySelector("[data-announce]").textContent = runs ? "A round has started." : "The round has ended."
}

const zone = document.querySelector("[data-zone]")
if (zone) zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone
localize(document)
prepare(document)
schedule()
