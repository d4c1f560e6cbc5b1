import CSimdJSON
import GatewayCore

/// A value in the document that its ``JSONParser`` parsed last.
package struct JSONValue {
    package enum Kind: Sendable { case null, bool, integer, double, string, array, object }

    let raw: csj_value

    package var kind: Kind {
        switch csj_type_of(raw) {
        case CSJ_BOOL: .bool
        case CSJ_INT64, CSJ_UINT64: .integer
        case CSJ_DOUBLE: .double
        case CSJ_STRING: .string
        case CSJ_ARRAY: .array
        case CSJ_OBJECT: .object
        default: .null
        }
    }

    package var isNull: Bool { kind == .null }
    package var bool: Bool? { kind == .bool ? csj_bool(raw) : nil }

    /// The string's UTF-8, valid until the next parse; nil for any other kind.
    var utf8: UnsafeBufferPointer<UInt8>? {
        guard kind == .string else { return nil }
        return csj_string_of(raw).buffer
    }

    package var string: String? {
        utf8.map { String(decoding: $0, as: UTF8.self) }
    }

    /// An integer, or a double without a fraction (`2.0`), that fits.
    package var wholeNumber: Int? {
        switch csj_type_of(raw) {
        case CSJ_INT64: Int(csj_int64(raw))
        case CSJ_DOUBLE: Int(exactly: csj_double(raw))
        default: nil
        }
    }

    /// A server's count of tokens; nil for zero, which is what one that does not count sends, and for what no server
    /// could mean, which sums must not overflow on.
    var tokenCount: Int? { wholeNumber.flatMap { (1...Int(Int32.max)).contains($0) ? $0 : nil } }

    /// nil for anything but a number; integers above Int64 become doubles.
    package var number: JSONNumber? {
        switch csj_type_of(raw) {
        case CSJ_INT64: .integer(csj_int64(raw))
        case CSJ_UINT64: .double(Double(csj_uint64(raw)))
        case CSJ_DOUBLE: .double(csj_double(raw))
        default: nil
        }
    }

    /// The value of the first such key of an object; nil where this is no object or has none.
    package subscript(_ key: StaticString) -> JSONValue? {
        guard kind == .object else { return nil }
        var place = csj_children_begin(raw)
        let end = csj_children_end(raw)
        while place < end {
            var name = csj_string()
            var value = csj_value()
            place = csj_object_entry(raw, place, &name, &value)
            if name.buffer.isEqual(key) { return JSONValue(raw: value) }
        }
        return nil
    }

    /// An object's entries, in order; does nothing for any other kind.
    func forEachEntry<E: Error>(
        _ body: (UnsafeBufferPointer<UInt8>, JSONValue) throws(E) -> Void
    ) throws(E) {
        guard kind == .object else { return }
        var place = csj_children_begin(raw)
        let end = csj_children_end(raw)
        while place < end {
            var name = csj_string()
            var value = csj_value()
            place = csj_object_entry(raw, place, &name, &value)
            try body(name.buffer, JSONValue(raw: value))
        }
    }

    /// An array's elements, in order; does nothing for any other kind.
    package func forEachElement<E: Error>(_ body: (JSONValue) throws(E) -> Void) throws(E) {
        guard kind == .array else { return }
        var place = csj_children_begin(raw)
        let end = csj_children_end(raw)
        while place < end {
            var value = csj_value()
            place = csj_array_entry(raw, place, &value)
            try body(JSONValue(raw: value))
        }
    }

    package var firstElement: JSONValue? {
        guard kind == .array, csj_children_begin(raw) < csj_children_end(raw) else { return nil }
        var value = csj_value()
        _ = csj_array_entry(raw, csj_children_begin(raw), &value)
        return JSONValue(raw: value)
    }

    /// Whether it is an array or object with something in it.
    package var hasElements: Bool {
        (kind == .array || kind == .object) && csj_children_begin(raw) < csj_children_end(raw)
    }
}

extension csj_string {
    var buffer: UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(
            start: UnsafeRawPointer(bytes)?.assumingMemoryBound(to: UInt8.self), count: length)
    }
}

extension UnsafeBufferPointer<UInt8> {
    /// Equality as bytes: Swift's own `==` on strings takes composed and decomposed letters for equal.
    func isEqual(_ text: StaticString) -> Bool {
        guard count == text.utf8CodeUnitCount else { return false }
        for index in 0..<count where self[index] != text.utf8Start[index] { return false }
        return true
    }

    /// Equality but for the case of ASCII letters; `lowercase` must be lower case.
    package func isCaselessEqual(_ lowercase: StaticString) -> Bool {
        guard count == lowercase.utf8CodeUnitCount else { return false }
        for index in 0..<count {
            let byte = self[index]
            guard (byte | (byte >= 0x41 && byte <= 0x5A ? 0x20 : 0)) == lowercase.utf8Start[index] else { return false }
        }
        return true
    }
}
