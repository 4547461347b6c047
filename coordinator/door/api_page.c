#include "coordinator/door/api_page.h"
#include "coordinator/door/api_admin.h"
#include "coordinator/door/exchange.h"
#include "topology/sha256.h"

#include <string.h>

// TRIREME_PAGE: where page.html is, from CMake.
__asm__(".pushsection .rodata\n"
        ".global api_page_html\n"
        ".hidden api_page_html\n"
        "api_page_html:\n"
        ".incbin \"" TRIREME_PAGE "\"\n"
        ".byte 0\n"
        ".popsection\n");

extern const char api_page_html[];

enum { DIGEST_BYTES = 32 };

// 'sha256-BASE64' of what stands between two marks of the page (CSP level 2, section 4.2.5): the
// browser runs this text and no other.
static void put_source(struct buf *out, const char *open, const char *close)
{
    uint8_t d[DIGEST_BYTES];
    struct sha256 s;
    const char *from = strstr(api_page_html, open), *to = strstr(api_page_html, close);
    if (!from || !to) BUG("page.html lost a mark");
    from += strlen(open);
    sha256_init(&s);
    sha256_add(&s, from, (size_t)(to - from));
    sha256_end(&s, d);
    buf_str(out, "'sha256-");
    buf_base64(out, d, sizeof d);
    buf_char(out, '\'');
}

static bool wants_page(struct exchange *x)
{
    const char *accept = MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, "Accept");
    return accept && strcasestr(accept, "text/html");
}

void api_page_root(struct exchange *x)
{
    x->varies = true;
    if (!wants_page(x)) {
        api_admin_root(x);
        return;
    }
    struct buf page = {0};
    buf_str(&x->policy, "default-src 'none'; connect-src 'self'; img-src data:; script-src ");
    put_source(&x->policy, "<script>", "</script>");
    buf_str(&x->policy, "; style-src ");
    put_source(&x->policy, "<style>", "</style>");
    buf_str(&x->policy, "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    // Without its policy it does not go out.
    if (buf_ok(&x->policy))
        buf_str(&page, api_page_html);
    else
        page.broken = true;
    exchange_text(x, 200, "text/html; charset=utf-8", &page);
}
