/// Finds the mistakes that TOMLKit's C++ parser asserts cannot be, and would end the process over (both found by
/// fuzzing): a table header whose name does not start like a name, and a brace that closes a bracket. A typing mistake in
/// a file that is reloaded must not end a gateway.
///
/// And every NUL, written or escaped: the text goes to the parser as a C string, and texts come back as such, so that
/// what follows would be lost without a word.
enum TOMLPrecheck {
    struct Fault {
        /// From 1.
        var line: Int
        var column: Int
        var reason: String
    }

    static func firstFault(_ text: String) -> Fault? {
        let bytes = Array(text.utf8)
        let end = bytes.firstIndex(of: 0)
        var scanner = Scanner(bytes: Array(bytes[..<(end ?? bytes.count)]))
        if let fault = scanner.firstFault() { return fault }
        return end.map {
            Fault(line: scanner.line, column: $0 - scanner.lineStart + 1, reason: "a NUL byte is not accepted")
        }
    }

    private struct Scanner {
        let bytes: [UInt8]
        var at = 0
        var line = 1
        var lineStart = 0
        /// Brackets and braces that are open in a value, innermost last.
        var open: [UInt8] = []
        var isLineEmpty = true

        init(bytes: [UInt8]) { self.bytes = bytes }

        mutating func firstFault() -> Fault? {
            while at < bytes.count {
                switch bytes[at] {
                case UInt8(ascii: "\n"): newLine()
                case UInt8(ascii: "#"): skipComment()
                case UInt8(ascii: "\""), UInt8(ascii: "'"):
                    if let fault = skipString() { return fault }
                case UInt8(ascii: "[") where open.isEmpty && isLineEmpty:
                    if let fault = header() { return fault }
                case UInt8(ascii: "["), UInt8(ascii: "{"): open.append(bytes[at])
                case UInt8(ascii: "}") where open.last == UInt8(ascii: "["):
                    return fault("a list ends with ] and not with }")
                case UInt8(ascii: "]"), UInt8(ascii: "}"): _ = open.popLast()
                case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"):
                    at += 1
                    continue
                default: break
                }
                if at < bytes.count, bytes[at] != UInt8(ascii: "\n") { isLineEmpty = false }
                at += 1
            }
            return nil
        }

        private func fault(_ reason: String) -> Fault {
            Fault(line: line, column: at - lineStart + 1, reason: reason)
        }

        private mutating func newLine() {
            line += 1
            lineStart = at + 1
            isLineEmpty = true
        }

        /// Ends on the last byte before the line's end.
        private mutating func skipComment() {
            while at + 1 < bytes.count, bytes[at + 1] != UInt8(ascii: "\n") { at += 1 }
        }

        /// Ends on the closing delimiter, or where the text does.
        private mutating func skipString() -> Fault? {
            let quote = bytes[at]
            let isTriple = at + 2 < bytes.count && bytes[at + 1] == quote && bytes[at + 2] == quote
            at += isTriple ? 3 : 1
            while at < bytes.count {
                if bytes[at] == UInt8(ascii: "\\"), quote == UInt8(ascii: "\"") {
                    if isEscapedNUL { return fault("the escape of a NUL is not accepted") }
                    at += 1
                    if at < bytes.count, bytes[at] == UInt8(ascii: "\n") { newLine() }
                } else if bytes[at] == quote {
                    guard isTriple else { return nil }
                    if at + 2 < bytes.count, bytes[at + 1] == quote, bytes[at + 2] == quote {
                        at += 2
                        return nil
                    }
                } else if bytes[at] == UInt8(ascii: "\n") {
                    newLine()
                    guard isTriple else { return nil }
                }
                at += 1
            }
            return nil
        }

        /// Whether the backslash begins `\u0000` or `\U00000000`.
        private var isEscapedNUL: Bool {
            let rest = bytes[(at + 1)...]
            return rest.starts(with: "u0000".utf8) || rest.starts(with: "U00000000".utf8)
        }

        /// Reads over the brackets and looks at what follows; ends before it, as a name may be quoted.
        private mutating func header() -> Fault? {
            at += 1
            if at < bytes.count, bytes[at] == UInt8(ascii: "[") { at += 1 }
            while at < bytes.count, bytes[at] == UInt8(ascii: " ") || bytes[at] == UInt8(ascii: "\t") { at += 1 }
            guard at < bytes.count else { return nil }
            guard Self.canStartName(bytes[at]) else {
                return fault("a table header needs a name of A-Z a-z 0-9 _ - or a quoted one")
            }
            at -= 1
            return nil
        }

        /// A bare key's characters, a quoted key, or what the parser reports by itself.
        private static func canStartName(_ byte: UInt8) -> Bool {
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "\""),
                UInt8(ascii: "'"), UInt8(ascii: "]"):
                true
            default: false
            }
        }
    }
}
