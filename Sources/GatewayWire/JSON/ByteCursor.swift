import NIOCore

/// Where the next byte goes, in room that was reserved for all of them: a reservation costs more than most writes.
package struct ByteCursor {
    fileprivate var next: UnsafeMutablePointer<UInt8>
    private let end: UnsafeMutablePointer<UInt8>

    fileprivate init(_ room: UnsafeMutableRawBufferPointer, at start: Int) {
        let bytes = room.baseAddress!.assumingMemoryBound(to: UInt8.self)
        next = bytes + start
        end = bytes + room.count
    }

    @inline(__always)
    package mutating func put(_ byte: UInt8) {
        precondition(next < end)
        next.pointee = byte
        next += 1
    }

    @inline(__always)
    package mutating func put(_ bytes: UnsafeBufferPointer<UInt8>) {
        precondition(bytes.count <= end - next)
        guard let start = bytes.baseAddress else { return }
        // Most are keys and short texts: two words that overlap, in place of a call.
        switch bytes.count {
        case 8...16: putEnds(of: bytes, as: UInt64.self)
        case 4..<8: putEnds(of: bytes, as: UInt32.self)
        case 1..<4:
            for index in 0..<bytes.count { next[index] = bytes[index] }
        default: next.update(from: start, count: bytes.count)
        }
        next += bytes.count
    }

    /// The first word and the last one, which together are all of it.
    @inline(__always)
    private func putEnds<Word: BitwiseCopyable>(of bytes: UnsafeBufferPointer<UInt8>, as: Word.Type) {
        let last = bytes.count - MemoryLayout<Word>.size
        let source = UnsafeRawPointer(bytes.baseAddress!)
        let (head, tail) = (source.loadUnaligned(as: Word.self), (source + last).loadUnaligned(as: Word.self))
        UnsafeMutableRawPointer(next).storeBytes(of: head, as: Word.self)
        UnsafeMutableRawPointer(next + last).storeBytes(of: tail, as: Word.self)
    }

    @inline(__always)
    package mutating func put(_ text: StaticString) {
        put(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    package mutating func putText(_ text: String) { text.withBytes { put($0) } }

    /// At most ``Int/decimalWidth`` bytes.
    package mutating func putDecimal(_ number: Int) {
        if number < 0 { put("-") }
        let magnitude = number.magnitude
        var digits = 1
        var rest = magnitude
        while rest >= 10 {
            rest /= 10
            digits += 1
        }
        putDecimal(magnitude, digits: digits)
    }

    /// The last digits of a number, with leading zeros.
    package mutating func putDecimal(_ number: UInt, digits: Int) {
        precondition(digits <= end - next)
        var rest = number
        var place = digits
        while place > 0 {
            place -= 1
            next[place] = UInt8(ascii: "0") + UInt8(truncatingIfNeeded: rest % 10)
            rest /= 10
        }
        next += digits
    }

    /// A string of JSON, with its quotes (RFC 8259 section 7). The only place that escapes.
    /// - Parameter escapes: how many of its bytes need one; each takes six bytes at most.
    mutating func putJSONString(_ text: UnsafeBufferPointer<UInt8>, escapes: Int) {
        put(UInt8(ascii: "\""))
        if escapes == 0 { put(text) } else { for byte in text { putInJSONString(byte) } }
        put(UInt8(ascii: "\""))
    }

    private mutating func putInJSONString(_ byte: UInt8) {
        guard byte.needsEscape else { return put(byte) }
        put("\\")
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"): put(byte)
        case 0x0A: put("n")
        case 0x0D: put("r")
        case 0x09: put("t")
        default:
            put("u00")
            put((byte >> 4).hexDigit)
            put((byte & 15).hexDigit)
        }
    }
}

extension Int {
    /// Bytes of the longest number in decimal.
    package static let decimalWidth = 20
}

extension ByteBuffer {
    /// - Parameter most: bytes that `body` puts at most.
    @inline(__always)
    package mutating func write(atMost most: Int, _ body: (inout ByteCursor) -> Void) {
        if writableBytes < most { reserveCapacity(minimumWritableBytes: most) }
        let start = writerIndex
        let count = withVeryUnsafeMutableBytes { bytes in
            var cursor = ByteCursor(bytes, at: start)
            let first = cursor.next
            body(&cursor)
            return cursor.next - first
        }
        moveWriterIndex(forwardBy: count)
    }

    package mutating func writeDecimal(_ number: Int) {
        write(atMost: Int.decimalWidth) { $0.putDecimal(number) }
    }

    /// A JSON string with its quotes.
    package mutating func writeJSONString(_ text: String) {
        text.withBytes { bytes in
            let escapes = bytes.escapeCount
            write(atMost: bytes.count + 5 * escapes + 2) { $0.putJSONString(bytes, escapes: escapes) }
        }
    }
}

extension String {
    /// The UTF-8 that it consists of.
    @inlinable @inline(__always)
    package func withBytes<Value>(_ body: (UnsafeBufferPointer<UInt8>) -> Value) -> Value {
        utf8.span.withUnsafeBufferPointer(body)
    }
}

extension UnsafeBufferPointer<UInt8> {
    /// How many bytes a JSON string cannot hold as they are.
    var escapeCount: Int {
        if count >= 8 {
            // Eight at a time, the last ones once more where they are no eight: as a rule none of them does.
            var index = 0
            while index + 8 < count, !word(at: index).hasByteThatNeedsEscape { index += 8 }
            if index + 8 >= count, !word(at: count - 8).hasByteThatNeedsEscape { return 0 }
        }
        var escapes = 0
        for byte in self where byte.needsEscape { escapes += 1 }
        return escapes
    }

    private func word(at index: Int) -> UInt64 {
        UnsafeRawPointer(baseAddress! + index).loadUnaligned(as: UInt64.self)
    }
}

extension UInt64 {
    /// Below 0x20, a quote or a backslash. Subtracting sets the high bit of such a byte; a borrow may set that of one above it
    /// too, so this tells only whether there is one.
    fileprivate var hasByteThatNeedsEscape: Bool {
        let ones: UInt64 = 0x0101_0101_0101_0101
        let quotes = self ^ (ones * 0x22)
        let backslashes = self ^ (ones * 0x5C)
        let isMeant =
            ((self &- ones * 0x20) & ~self) | ((quotes &- ones) & ~quotes) | ((backslashes &- ones) & ~backslashes)
        return isMeant & (ones << 7) != 0
    }
}

extension UInt8 {
    fileprivate var needsEscape: Bool { self < 0x20 || self == UInt8(ascii: "\"") || self == UInt8(ascii: "\\") }

    /// Of 0 to 15, in lower case.
    package var hexDigit: UInt8 { self < 10 ? UInt8(ascii: "0") + self : UInt8(ascii: "a") + self - 10 }
}
