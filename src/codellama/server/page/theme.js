// Light, dark, or as the system has it: set before anything is drawn. A classic script, for that reason.
"use strict";

(() => {
  const THEMES = ["system", "light", "dark"];
  const root = document.documentElement;

  function stored() {
    try {
      const theme = localStorage.getItem("codellama-theme");
      return THEMES.includes(theme) ? theme : "system";
    } catch {
      return "system"; // a browser that keeps nothing
    }
  }

  function show(theme) {
    root.dataset.theme = theme;
  }

  globalThis.codellamaTheme = {
    current: () => root.dataset.theme,
    next() {
      const theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
      try {
        localStorage.setItem("codellama-theme", theme);
      } catch {
        // it holds until the page is closed
      }
      show(theme);
      return theme;
    },
  };
  show(stored());
})();
