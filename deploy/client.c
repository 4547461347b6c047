#include "deploy/client.h"

#include "proto/base/json.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CONNECT_MS = 5000,
    SILENCE_S = 60, // a server says something more often, also while it reads a long prompt
};

struct transfer {
    CURL *curl;
    client_piece_fn *piece;
    void *arg;
    struct buf error_body; // of an answer that is not 2xx
};

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    long status = 0;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 300) {
        buf_add(&t->error_body, data, size * n);
        return size * n;
    }
    return t->piece(t->arg, data, size * n) ? size * n : 0;
}

static err_t read_key(const struct client_config *c, char *header, size_t size,
                      struct err_text *why)
{
    char key[512] = "";
    const char *env = getenv("TRIREME_API_KEY");
    FILE *f = c->key_file ? fopen(c->key_file, "r") : NULL;
    if (c->key_file && !f) return err_say(why, ERR_CONFIG, "%s: %s", c->key_file, strerror(errno));
    if (f) {
        if (!fgets(key, sizeof key, f)) key[0] = 0;
        fclose(f);
    } else if (env) {
        snprintf(key, sizeof key, "%s", env);
    }
    key[strcspn(key, "\r\n")] = 0;
    header[0] = 0;
    if (key[0]) snprintf(header, size, "Authorization: Bearer %s", key);
    return OK;
}

static err_t refused(struct transfer *t, const char *url, long status, struct err_text *why)
{
    struct arena a;
    const struct json *j = NULL, *message = NULL;
    arena_init(&a, 1 << 20);
    if (t->error_body.data && !json_read(t->error_body.data, t->error_body.len, &a, &j, NULL, NULL))
        message = json_get(json_get(j, "error"), "message");
    err_t err = err_say(why, status == 404 ? ERR_NOT_FOUND : ERR_DENIED, "%s answered %ld: %s", url,
                        status, message && message->kind == J_STR ? message->str.s : "no message");
    arena_fini(&a);
    return err;
}

err_t client_request(const struct client_config *c, const char *path, const char *body,
                     client_piece_fn *piece, void *arg, struct err_text *why)
{
    char url[2048], auth[600];
    err_t err = read_key(c, auth, sizeof auth, why);
    if (err) return err;
    CURL *curl = curl_easy_init();
    if (!curl) return err_say(why, ERR_MEMORY, "out of memory");
    struct transfer t = {.curl = curl, .piece = piece, .arg = arg, .error_body.max = 1 << 20};
    snprintf(url, sizeof url, "%s%s", c->url, path);
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (auth[0]) headers = curl_slist_append(headers, auth);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROXY, ""); // a cluster is never asked through a proxy
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SILENCE_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &t);
    if (c->ca_file) curl_easy_setopt(curl, CURLOPT_CAINFO, c->ca_file);
    if (body) curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_WRITE_ERROR)
        err = err_say(why, ERR_CANCELLED, "stopped");
    else if (code)
        err = err_say(why, ERR_LINK, "%s: %s", url, curl_easy_strerror(code));
    else if (status < 200 || status >= 300)
        err = refused(&t, url, status, why);
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    buf_fini(&t.error_body);
    return err;
}

static bool append(void *arg, const char *data, size_t len)
{
    buf_add(arg, data, len);
    return buf_ok(arg);
}

err_t client_get(const struct client_config *c, const char *path, struct buf *out,
                 struct err_text *why)
{
    out->max = 16 << 20;
    return client_request(c, path, NULL, append, out, why);
}
