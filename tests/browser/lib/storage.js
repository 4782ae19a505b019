/** What a page of the client has in the browser's storage. */

/** How many submissions are stored. @param {import('./window.js').Window} window */
export function stored(window) {
  return window.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const opening = indexedDB.open('switchyard', 1);
        opening.onerror = () => reject(opening.error);
        opening.onsuccess = () => {
          const counting = opening.result.transaction('items').objectStore('items').count();
          counting.onsuccess = () => {
            opening.result.close();
            resolve(counting.result);
          };
        };
      }),
  );
}
