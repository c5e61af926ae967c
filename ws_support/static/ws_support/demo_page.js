// Functions that the scripts of the demo page share. Data from a peer or a file is put into the page
// as text, never as HTML.

export function byId(id) {
  return document.getElementById(id);
}

/** Return a copy of the `<template>` with this id, with these texts in its fields. */
export function filled(templateId, texts) {
  const content = byId(templateId).content.cloneNode(true);
  for (const [field, text] of Object.entries(texts)) {
    content.querySelector(`[data-field="${field}"]`).textContent = text;
  }
  return content;
}

/** Show this text or node as the error of the field; without one, the field is valid. */
export function showError(field, error = "") {
  byId(field.getAttribute("aria-describedby")).replaceChildren(error);
  field.setAttribute("aria-invalid", String(error !== ""));
}

/**
 * Focus `element` if the focused control was disabled or hidden: without focus, the user would start
 * at the top. The page does not scroll.
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

/** Let Enter send the form of a field with many lines, and Shift + Enter start a new line. */
export function sendOnEnter(field) {
  field.addEventListener("keydown", (event) => {
    // While an input method composes a character, Enter belongs to the input method.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    field.form.requestSubmit();
  });
}

/** Offer a text as a file. */
export function saved(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  // Browsers read the file later.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function count(number, thing) {
  return `${number.toLocaleString("en")} ${thing}${number === 1 ? "" : "s"}`;
}

/** Return the number of bytes of a message. */
export function byteSize(data) {
  return typeof data === "string" ? new TextEncoder().encode(data).length : data.byteLength;
}

export function inSeconds(milliseconds) {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}
