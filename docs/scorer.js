// How found pages are ranked: as Sphinx does it, but that what a user of batiste writes comes before Flax's names for it.
var Scorer = {
  score: ([docname, title, anchor, descr, score, filename, kind]) => {
    if (docname.includes("batiste.compat")) return score - 30;
    return docname.endsWith("/batiste.nn") ? score + 10 : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: {0: 15, 1: 5, 2: -5},
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
