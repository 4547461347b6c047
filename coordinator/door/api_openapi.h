// GET /openapi.json: what is served, described as OpenAPI 3.1 (spec.openapis.org/oas/v3.1.0). Paths
// and who may ask come from the routes; fields of bodies, their kinds and ranges from fields_table;
// shapes of answers are written out in api_openapi.c.
#pragma once

struct exchange;

void api_openapi_get(struct exchange *x);
