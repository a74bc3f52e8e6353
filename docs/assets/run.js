// Offers to run the programs that publish/runnable.py has marked. What runs them, several
// megabytes, is loaded by the first click.

function offer(block) {
  const title = block.querySelector(":scope > .filename");
  if (title.querySelector("button")) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "run-here";
  button.textContent = "try" in block.dataset ? "Reproduce here" : "Run here";
  button.setAttribute("aria-label", `${button.textContent}: ${block.dataset.run.split("/")[1]}`);
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", async () => {
    const { toggle } = await import("./runner.js");
    toggle(block, button);
  });
  title.append(button);
}

function offerAll() {
  document.querySelectorAll("[data-run]").forEach(offer);
}
// Programs in folds are loaded when these are opened.
new MutationObserver(offerAll).observe(document.body, { childList: true, subtree: true });
offerAll();
