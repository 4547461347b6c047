// "/": the status page for a browser, {"name", "status"} for everybody else. The page (page.html,
// kept in the program) asks GET /v1/cluster for all it shows; it is open to all, what it asks for
// is not.
#pragma once

struct exchange;

void api_page_root(struct exchange *x);
