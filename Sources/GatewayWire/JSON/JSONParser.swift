import CSimdJSON

/// Reads whole JSON documents with simdjson: full grammar and UTF-8 checks, at most 64 levels deep.
///
/// One an event loop: its buffers are reused, and a ``JSONValue`` is valid until the next parse.
package final class JSONParser {
    package enum Fault: Error, Equatable {
        case empty, badUTF8, tooDeep, badNumber, malformed, outOfMemory
    }

    private let parser: OpaquePointer

    package init() {
        guard let parser = csj_parser_new(64) else { fatalError("no memory for a JSON parser") }
        self.parser = parser
    }

    deinit { csj_parser_free(parser) }

    package func parse(_ bytes: UnsafeRawBufferPointer) throws(Fault) -> JSONValue {
        // simdjson skips a byte-order mark in later versions; RFC 8259 section 8.1 forbids sending one.
        guard !bytes.starts(with: [0xEF, 0xBB, 0xBF]) else { throw .malformed }
        var root = csj_value()
        let base = bytes.baseAddress?.assumingMemoryBound(to: CChar.self)
        guard let base, !bytes.isEmpty else { throw .empty }
        switch csj_parse(parser, base, bytes.count, &root) {
        case CSJ_OK: return JSONValue(raw: root)
        case CSJ_EMPTY: throw .empty
        case CSJ_BAD_UTF8: throw .badUTF8
        case CSJ_TOO_DEEP: throw .tooDeep
        case CSJ_BAD_NUMBER: throw .badNumber
        case CSJ_NO_MEMORY: throw .outOfMemory
        default: throw .malformed
        }
    }

    package func parse(_ bytes: [UInt8]) throws(Fault) -> JSONValue {
        // withUnsafeBytes cannot rethrow a typed error through its generic signature without help.
        let result: Result<JSONValue, Fault> = bytes.withUnsafeBytes { buffer in
            Result { () throws(Fault) in try parse(buffer) }
        }
        return try result.get()
    }
}
