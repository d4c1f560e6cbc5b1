// A C face on simdjson's DOM parser: parse a whole document, then walk it. Nothing here decides anything.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct csj_parser csj_parser;

/// A place in the parsed document; valid until the next parse of the same parser.
typedef struct {
    const void *document;
    size_t index;
} csj_value;

typedef enum {
    CSJ_NULL,
    CSJ_BOOL,
    CSJ_INT64,
    CSJ_UINT64,
    CSJ_DOUBLE,
    CSJ_STRING,
    CSJ_ARRAY,
    CSJ_OBJECT,
} csj_type;

typedef enum {
    CSJ_OK,
    CSJ_EMPTY,
    CSJ_BAD_UTF8,
    CSJ_TOO_DEEP,
    CSJ_BAD_NUMBER,
    CSJ_MALFORMED,
    CSJ_NO_MEMORY,
} csj_status;

typedef struct {
    const char *bytes;
    size_t length;
} csj_string;

/// Null where there is no memory for it.
csj_parser *csj_parser_new(size_t max_depth);
void csj_parser_free(csj_parser *parser);

/// Parses one document; the bytes are copied and need no padding.
csj_status csj_parse(csj_parser *parser, const char *bytes, size_t length, csj_value *root);

csj_type csj_type_of(csj_value value);
bool csj_bool(csj_value value);
int64_t csj_int64(csj_value value);
uint64_t csj_uint64(csj_value value);
double csj_double(csj_value value);
csj_string csj_string_of(csj_value value);

/// The place of an object's or array's first child, and one past its last.
size_t csj_children_begin(csj_value container);
size_t csj_children_end(csj_value container);
/// An object's child at a place: its key, its value and the place after it.
size_t csj_object_entry(csj_value object, size_t place, csj_string *key, csj_value *value);
/// An array's child at a place: its value and the place after it.
size_t csj_array_entry(csj_value array, size_t place, csj_value *value);

#ifdef __cplusplus
}
#endif
