"use strict";
(() => {
  const tip = document.getElementById("tip");
  const marks = document.querySelectorAll("g.mark");
  for (const mark of marks) {
    const title = mark.querySelector("title");
    const text = title.textContent.trim();
    title.remove();
    mark.setAttribute("aria-label", text);
    const show = () => {
      tip.textContent = text;
      tip.hidden = false;
      const box = mark.getBoundingClientRect();
      const x = Math.min(box.left + box.width / 2, document.documentElement.clientWidth - tip.offsetWidth - 8);
      const above = box.top - tip.offsetHeight - 8;
      tip.style.left = Math.max(8, x) + "px";
      tip.style.top = (above < 8 ? box.bottom + 8 : above) + "px";
    };
    const hide = () => { tip.hidden = true; };
    mark.addEventListener("pointerenter", show);
    mark.addEventListener("focus", show);
    mark.addEventListener("pointerleave", hide);
    mark.addEventListener("blur", hide);
  }
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
