/*
 * A guest's requests for metadata, and Firecracker's answers: documents as JSON or as EC2's
 * listings, and for version 2 the tokens that a session needs.
 *
 * A token is its time of expiry and a nonce, signed: nothing is kept for it, so a guest may ask for
 * as many as it likes. The signature is SipHash-2-4 under two keys, which live as long as we.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "helpers/mmds.h"

#define TOKEN_PATH    "/latest/api/token"
#define TOKEN_LENGTH  64
#define MAX_TTL	      21600
#define MAX_HEAD      4096
#define MAX_PATH_SIZE 1024

/* What of a request matters. */
struct request {
	char method[16], path[MAX_PATH_SIZE];
	bool http_1_0, close, json;
	char token[TOKEN_LENGTH + 8], ttl[24], ttl_name[48], forwarded[24];
	bool has_token, has_ttl;
	size_t body;
};

/* ---- tokens ---- */

static uint64_t rotate(uint64_t v, unsigned n)
{
	return v << n | v >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[0] = rotate(v[0], 32);
	v[2] += v[3];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

/* SipHash-2-4 of two words under a key of two. */
static uint64_t sign(const uint64_t key[2], const uint64_t word[2])
{
	uint64_t v[4] = {
		key[0] ^ 0x736f6d6570736575,
		key[1] ^ 0x646f72616e646f6d,
		key[0] ^ 0x6c7967656e657261,
		key[1] ^ 0x7465646279746573,
	};
	const uint64_t m[3] = { word[0], word[1], (uint64_t)16 << 56 };

	for (unsigned i = 0; i < 3; i++) {
		v[3] ^= m[i];
		sip_round(v);
		sip_round(v);
		v[0] ^= m[i];
	}
	v[2] ^= 0xff;
	for (unsigned i = 0; i < 4; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static bool make_token(const struct mmds_store *s, uint32_t ttl, char token[TOKEN_LENGTH + 1])
{
	uint64_t word[2] = { s->now_seconds() + ttl };

	if (getrandom(&word[1], sizeof(word[1]), GRND_NONBLOCK) != sizeof(word[1]))
		return false;
	snprintf(token, TOKEN_LENGTH + 1, "%016" PRIx64 "%016" PRIx64 "%016" PRIx64 "%016" PRIx64,
		 word[0], word[1], sign(s->key, word), sign(s->key + 2, word));
	return true;
}

static bool is_token(const struct mmds_store *s, const char *token)
{
	uint64_t part[4];
	char text[17];

	if (strlen(token) != TOKEN_LENGTH || strspn(token, "0123456789abcdef") != TOKEN_LENGTH)
		return false;
	for (unsigned i = 0; i < 4; i++) {
		snprintf(text, sizeof(text), "%.16s", token + 16 * (size_t)i);
		part[i] = strtoull(text, NULL, 16);
	}
	/* Both halves at once: the time it takes tells nothing of which one was wrong. */
	return !((part[2] ^ sign(s->key, part)) | (part[3] ^ sign(s->key + 2, part))) &&
	       part[0] > s->now_seconds();
}

static uint64_t seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

bool mmds_store_init(struct mmds_store *s, struct mmds_counters *counters)
{
	*s = (struct mmds_store){ .now_seconds = seconds, .counters = counters };
	return getrandom(s->key, sizeof(s->key), 0) == sizeof(s->key);
}

/* ---- requests ---- */

/* "Name: value" is the header @name: its value, of @ret_len characters without blanks around. */
static const char *header_value(const char *line, const char *end, const char *name,
				size_t *ret_len)
{
	size_t n = strlen(name);

	if ((size_t)(end - line) <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
		return NULL;
	line += n + 1;
	while (line < end && (*line == ' ' || *line == '\t'))
		line++;
	while (end > line && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*ret_len = end - line;
	return line;
}

/* A value longer than @buf is kept cut, and so fits nothing. */
static bool take_header(const char *line, const char *end, const char *name, char *buf, size_t size)
{
	size_t len;
	const char *value = header_value(line, end, name, &len);

	if (!value)
		return false;
	snprintf(buf, size, "%.*s", (int)MIN(len, size), value);
	return true;
}

static void take_ttl(struct request *r, const char *line, const char *end)
{
	static const char *const names[] = {
		"X-metadata-token-ttl-seconds",
		"X-aws-ec2-metadata-token-ttl-seconds",
	};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (!take_header(line, end, names[i], r->ttl, sizeof(r->ttl)))
			continue;
		r->has_ttl = true;
		snprintf(r->ttl_name, sizeof(r->ttl_name), "%s", names[i]);
	}
}

static bool take_line(struct request *r, const char *line, const char *end)
{
	char value[64] = "";

	if (!memchr(line, ':', end - line))
		return false;
	r->has_token |= take_header(line, end, "X-metadata-token", r->token, sizeof(r->token)) ||
			take_header(line, end, "X-aws-ec2-metadata-token", r->token,
				    sizeof(r->token));
	take_ttl(r, line, end);
	if (take_header(line, end, "X-Forwarded-For", value, sizeof(value)))
		snprintf(r->forwarded, sizeof(r->forwarded), "%.*s", (int)strcspn(line, ":"), line);
	if (take_header(line, end, "Accept", value, sizeof(value)))
		r->json = strcasestr(value, "application/json");
	if (take_header(line, end, "Connection", value, sizeof(value)))
		r->close = !strcasecmp(value, "close");
	if (take_header(line, end, "Content-Length", value, sizeof(value))) {
		if (!*value || strspn(value, "0123456789") != strlen(value) || strlen(value) > 6)
			return false;
		r->body = strtoul(value, NULL, 10);
	}
	return !take_header(line, end, "Transfer-Encoding", value, sizeof(value));
}

/* METHOD PATH VERSION; a path may be a whole URI. */
static bool take_first_line(struct request *r, const char *line, const char *end)
{
	char text[MAX_PATH_SIZE + 64], version[16];
	const char *host;

	if ((size_t)(end - line) >= sizeof(text))
		return false;
	snprintf(text, sizeof(text), "%.*s", (int)(end - line), line);
	if (sscanf(text, "%15s %1023s %15s", r->method, r->path, version) != 3)
		return false;
	r->http_1_0 = !strcmp(version, "HTTP/1.0");
	if (!strncmp(r->path, "http://", 7)) {
		host = strchr(r->path + 7, '/');
		memmove(r->path, host ? host : "", host ? strlen(host) + 1 : 1);
	}
	return r->http_1_0 || !strcmp(version, "HTTP/1.1");
}

static bool parse_request(struct request *r, const char *text, const char *end)
{
	const char *next;
	bool first = true;

	if (memchr(text, '\0', end - text))
		return false;
	/* At @end is the last of these. */
	for (; text < end; text = next + 2, first = false) {
		next = memmem(text, end + 2 - text, "\r\n", 2);
		if (first ? !take_first_line(r, text, next) : !take_line(r, text, next))
			return false;
	}
	return !first;
}

/* ---- answers ---- */

struct answer {
	int status;
	bool json;
	char *body;		    /* to be freed, or NULL: */
	char words[MAX_PATH_SIZE + 100]; /* what went wrong */
	char header[80];	    /* one more, with its line's end */
};

static void refuse(struct answer *a, int status, const char *fmt, ...) __printf(3, 4);

static void refuse(struct answer *a, int status, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(a->words, sizeof(a->words), fmt, ap);
	va_end(ap);
	a->status = status;
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* As EC2 lists it: a key a line, by name, with a slash where more is beneath. NULL: no memory. */
static char *list_keys(const json_t *object)
{
	size_t num = 0, len = 0;
	const char **keys = calloc(json_object_size(object) + 1, sizeof(*keys)), *key;
	char *text = NULL;
	FILE *out = open_memstream(&text, &len);
	json_t *v;

	json_object_foreach((json_t *)object, key, v) if (keys) keys[num++] = key;
	if (keys)
		qsort(keys, num, sizeof(*keys), compare_keys);
	for (size_t i = 0; out && i < num; i++)
		fprintf(out, "%s%s%s", i ? "\n" : "", keys[i],
			json_is_object(json_object_get(object, keys[i])) ? "/" : "");
	if (out)
		fclose(out);
	free(keys);
	return text;
}

/* Beneath @v by @name, of @len characters with ~0 and ~1 for ~ and / (RFC 6901). */
static const json_t *step(const json_t *v, const char *name, size_t len)
{
	char key[MAX_PATH_SIZE];
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		bool escape = name[i] == '~' && i + 1 < len &&
			      (name[i + 1] == '0' || name[i + 1] == '1');

		key[n++] = !escape ? name[i] : name[++i] == '0' ? '~' : '/';
	}
	key[n] = '\0';
	if (json_is_object(v))
		return json_object_get(v, key);
	if (!json_is_array(v) || !n || strspn(key, "0123456789") != n || n > 9 ||
	    (n > 1 && key[0] == '0'))
		return NULL;
	return json_array_get(v, strtoul(key, NULL, 10));
}

/* @path has single slashes. NULL: nothing is there. */
static const json_t *find(const json_t *v, const char *path)
{
	size_t len = strlen(path);

	if (len && path[len - 1] == '/')
		len--;
	while (len && v) {
		size_t n;

		if (*path != '/')
			return NULL;
		path++;
		len--;
		n = strcspn(path, "/");
		n = MIN(n, len);
		v = step(v, path, n);
		path += n;
		len -= n;
	}
	return v;
}

static void single_slashes(char *path)
{
	char *to = path;

	for (const char *p = path; *p; p++)
		if (p[0] != '/' || p[1] != '/')
			*to++ = *p;
	*to = '\0';
}

static void get_document(struct mmds_store *s, const struct request *r, struct answer *a)
{
	char path[MAX_PATH_SIZE];
	const json_t *v;
	json_t *null = json_null();

	snprintf(path, sizeof(path), "%s", r->path);
	single_slashes(path);
	v = find(s->contents ? s->contents : null, path);
	if (!v) {
		refuse(a, 404, "Resource not found: %s.", r->path);
		return;
	}
	a->status = 200;
	a->json = r->json;
	if (r->json && !s->always_text)
		a->body = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
	else if (json_is_object(v))
		a->body = list_keys(v);
	else if (json_is_string(v))
		a->body = strdup(json_string_value(v));
	else
		refuse(a, 501, "Cannot retrieve value. The value has an unsupported type.");
	if (a->status != 200)
		a->json = false;
}

static void get(struct mmds_store *s, const struct request *r, struct answer *a)
{
	bool valid = r->has_token && is_token(s, r->token);

	if (!r->has_token)
		s->counters->rx_no_token++;
	else if (!valid)
		s->counters->rx_invalid_token++;
	if (!s->needs_token || valid)
		get_document(s, r, a);
	else if (r->has_token)
		refuse(a, 401, "MMDS token not valid.");
	else
		refuse(a, 401,
		       "No MMDS token provided. Use `X-metadata-token` or "
		       "`X-aws-ec2-metadata-token` header to specify the session token.");
}

static void put(struct mmds_store *s, const struct request *r, struct answer *a)
{
	char path[MAX_PATH_SIZE], token[TOKEN_LENGTH + 1];
	unsigned long ttl;

	snprintf(path, sizeof(path), "%s", r->path);
	single_slashes(path);
	if (*r->forwarded) {
		refuse(a, 400, "Invalid header. Reason: Unsupported header name. Key: %s",
		       r->forwarded);
		return;
	}
	if (strcmp(path, TOKEN_PATH) != 0) {
		refuse(a, 404, "Resource not found: %s.", r->path);
		return;
	}
	if (!r->has_ttl) {
		refuse(a, 400,
		       "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or "
		       "`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's "
		       "lifetime.");
		return;
	}
	if (!*r->ttl || strspn(r->ttl, "0123456789") != strlen(r->ttl) || strlen(r->ttl) > 10 ||
	    strtoull(r->ttl, NULL, 10) > UINT32_MAX) {
		refuse(a, 400, "Invalid header. Reason: Invalid value. Key:%s; Value:%s",
		       r->ttl_name, r->ttl);
		return;
	}
	ttl = strtoul(r->ttl, NULL, 10);
	if (ttl < 1 || ttl > MAX_TTL) {
		refuse(a, 400,
		       "Invalid time to live value provided for token: %lu. Please provide a value "
		       "between 1 and %d.",
		       ttl, MAX_TTL);
		return;
	}
	if (!make_token(s, ttl, token)) {
		refuse(a, 400, "Failed to encrypt token.");
		return;
	}
	a->status = 200;
	a->body = strdup(token);
	snprintf(a->header, sizeof(a->header), "%s: %lu\r\n", r->ttl_name, ttl);
}

static const char *status_text(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 400:
		return "Bad Request";
	case 401:
		return "Unauthorized";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	default:
		return "Not Implemented";
	}
}

size_t mmds_answer(struct mmds_store *s, const char *text, size_t len, char **ret_answer,
		   size_t *ret_answer_len, bool *ret_close)
{
	const char *end = memmem(text, len, "\r\n\r\n", 4);
	struct request r = { 0 };
	struct answer a = { 0 };
	size_t used = len;
	const char *body;
	int n;

	*ret_answer = NULL;
	*ret_answer_len = 0;
	if (!end && len <= MAX_HEAD)
		return 0;
	if (!end || !parse_request(&r, text, end)) {
		refuse(&a, 400, "Invalid request.");
		r.close = true;
	} else {
		used = end + 4 - text + r.body;
		if (used > len && r.body <= MAX_HEAD)
			return 0;
		if (used > len) {
			refuse(&a, 400, "Invalid request.");
			used = len;
			r.close = true;
		} else if (!*r.path) {
			refuse(&a, 400, "Invalid URI.");
		} else if (!strcmp(r.method, "GET")) {
			get(s, &r, &a);
		} else if (!strcmp(r.method, "PUT")) {
			put(s, &r, &a);
		} else {
			refuse(&a, 405, "Not allowed HTTP method.");
			snprintf(a.header, sizeof(a.header), "Allow: GET, PUT\r\n");
		}
	}
	s->counters->rx_count++;
	*ret_close = r.close || r.http_1_0;
	body = a.body ? a.body : a.words;
	n = asprintf(ret_answer,
		     "HTTP/1.%d %d %s\r\nServer: Firecracker API\r\nConnection: %s\r\n%s"
		     "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n%s",
		     !r.http_1_0, a.status, status_text(a.status),
		     *ret_close ? "close" : "keep-alive", a.header,
		     a.json ? "application/json" : "text/plain", strlen(body), body);
	free(a.body);
	if (n < 0)
		*ret_answer = NULL;
	else
		*ret_answer_len = n;
	s->counters->tx_count++;
	return used;
}
