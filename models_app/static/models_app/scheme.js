// Sets the colour scheme before the page is drawn: that of the system, or the one that the user chose.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)")
  const apply = () => {
    const chosen = localStorage.getItem("scheme") ?? "auto"
    const dark = chosen === "dark" || (chosen === "auto" && system.matches)
    document.documentElement.classList.toggle("dark", dark)
    document.documentElement.style.colorScheme = dark ? "dark" : "light"
  }
  apply()
  system.addEventListener("change", apply)
  addEventListener("storage", apply)
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.querySelector("[data-scheme]")
    if (!choice) return
    choice.value = localStorage.getItem("scheme") ?? "auto"
    choice.addEventListener("change", () => {
      localStorage.setItem("scheme", choice.value)
      apply()
    })
  })
})()
