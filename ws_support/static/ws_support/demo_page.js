// What the scripts of the demo page share. Whatever comes from a peer or a file gets into the page as
// text, never as HTML.

export function byId(id) {
  return document.getElementById(id);
}

/** What the page has under this id in a `<template>`, with these texts in its fields. */
export function filled(templateId, texts) {
  const content = byId(templateId).content.cloneNode(true);
  for (const [field, text] of Object.entries(texts)) {
    content.querySelector(`[data-field="${field}"]`).textContent = text;
  }
  return content;
}

/** Show this text or node in the field's own place for errors; none: the field is in order. */
export function showError(field, error = "") {
  byId(field.getAttribute("aria-describedby")).replaceChildren(error);
  field.setAttribute("aria-invalid", String(error !== ""));
}

/**
 * Focus `element` if what had the focus was disabled or hidden: else the user would start at the top.
 * What is looked at stays in sight.
 */
export function rescueFocus(element) {
  const active = document.activeElement;
  if (!active || active === document.body || active.disabled || active.closest("[hidden]")) {
    element.focus({ preventScroll: true });
  }
}

export function onSubmit(formId, handler) {
  byId(formId).addEventListener("submit", (event) => {
    event.preventDefault();
    handler();
  });
}

/** In a field of many lines: Enter sends its form, and with Shift it starts a new line. */
export function sendOnEnter(field) {
  field.addEventListener("keydown", (event) => {
    // While an input method composes, Enter is its own.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    field.form.requestSubmit();
  });
}

/** Offer a text as a file. */
export function saved(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  // Browsers read it in their own time.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function count(number, thing) {
  return `${number.toLocaleString("en")} ${thing}${number === 1 ? "" : "s"}`;
}

/** Of what a WebSocket sends. */
export function byteSize(data) {
  return typeof data === "string" ? new TextEncoder().encode(data).length : data.byteLength;
}

export function inSeconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}
