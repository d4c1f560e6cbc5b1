#include "CSimdJSON.h"

#include <new>
#include <simdjson.h>

using simdjson::internal::tape_ref;
using simdjson::internal::tape_type;

struct csj_parser {
    explicit csj_parser(size_t depth) : max_depth(depth) {}
    simdjson::dom::parser parser;
    size_t max_depth;
};

// Bytes of a document for which buffers are kept.
static const size_t kKeptCapacity = 1 << 20;

static tape_ref ref(csj_value value) {
    return tape_ref(static_cast<const simdjson::dom::document *>(value.document), value.index);
}

extern "C" {

csj_parser *csj_parser_new(size_t max_depth) { return new (std::nothrow) csj_parser(max_depth); }

void csj_parser_free(csj_parser *parser) { delete parser; }

csj_status csj_parse(csj_parser *parser, const char *bytes, size_t length, csj_value *root) {
    // The parser grows its buffers by itself, but only with the depth it was last given; and it never gives them back, 13
    // bytes for each of the longest document there was.
    bool is_oversized = parser->parser.capacity() > kKeptCapacity && length <= kKeptCapacity;
    if (parser->parser.capacity() < length || is_oversized || parser->parser.max_depth() != parser->max_depth) {
        if (is_oversized) parser->parser = simdjson::dom::parser();
        if (parser->parser.allocate(length < 4096 ? 4096 : length, parser->max_depth)) return CSJ_NO_MEMORY;
    }
    simdjson::dom::element element;
    auto error = parser->parser.parse(bytes, length, true).get(element);
    switch (error) {
        case simdjson::SUCCESS: break;
        case simdjson::EMPTY: return CSJ_EMPTY;
        case simdjson::UTF8_ERROR: return CSJ_BAD_UTF8;
        case simdjson::DEPTH_ERROR: return CSJ_TOO_DEEP;
        case simdjson::NUMBER_ERROR: return CSJ_BAD_NUMBER;
        case simdjson::MEMALLOC: return CSJ_NO_MEMORY;
        default: return CSJ_MALFORMED;
    }
    // Index 0 is the root's own mark; the value follows it.
    root->document = &parser->parser.doc;
    root->index = 1;
    return CSJ_OK;
}

csj_type csj_type_of(csj_value value) {
    switch (ref(value).tape_ref_type()) {
        case tape_type::START_ARRAY: return CSJ_ARRAY;
        case tape_type::START_OBJECT: return CSJ_OBJECT;
        case tape_type::STRING: return CSJ_STRING;
        case tape_type::INT64: return CSJ_INT64;
        case tape_type::UINT64: return CSJ_UINT64;
        case tape_type::DOUBLE: return CSJ_DOUBLE;
        case tape_type::TRUE_VALUE:
        case tape_type::FALSE_VALUE: return CSJ_BOOL;
        default: return CSJ_NULL;
    }
}

bool csj_bool(csj_value value) { return ref(value).is_true(); }
int64_t csj_int64(csj_value value) { return ref(value).next_tape_value<int64_t>(); }
uint64_t csj_uint64(csj_value value) { return ref(value).next_tape_value<uint64_t>(); }
double csj_double(csj_value value) { return ref(value).next_tape_value<double>(); }

csj_string csj_string_of(csj_value value) {
    auto at = ref(value);
    return {at.get_c_str(), at.get_string_length()};
}

size_t csj_children_begin(csj_value container) { return container.index + 1; }
size_t csj_children_end(csj_value container) { return ref(container).after_element() - 1; }

size_t csj_object_entry(csj_value object, size_t place, csj_string *key, csj_value *value) {
    *key = csj_string_of({object.document, place});
    *value = {object.document, place + 1};
    return ref(*value).after_element();
}

size_t csj_array_entry(csj_value array, size_t place, csj_value *value) {
    *value = {array.document, place};
    return ref(*value).after_element();
}
}
