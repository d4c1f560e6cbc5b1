import ArgumentParser
import Foundation
import Glibc

/// One line on standard error.
func printError(_ text: String) {
    var line = "webllm-gateway: " + text.printable(keeping: "\n") + "\n"
    line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

func printLine(_ text: String = "") { printText(text + "\n") }

/// On standard output, at once. Where nobody reads on, the process ends as any other in a pipe does.
func printText(_ text: String) {
    var text = text
    text.withUTF8 { bytes in
        var rest = UnsafeRawBufferPointer(bytes)
        while !rest.isEmpty {
            let count = write(STDOUT_FILENO, rest.baseAddress, rest.count)
            if count > 0 {
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            } else if errno == EPIPE {
                // The transfer engine has it ignored.
                signal(SIGPIPE, SIG_DFL)
                raise(SIGPIPE)
            } else if errno != EINTR {
                printError("standard output: \(String(cString: strerror(errno)))")
                exit(ExitCode.failure.rawValue)
            }
        }
    }
}

/// JSON as it came, and a line end. DEL and the C1 controls, which it has only in strings, are escaped: they would steer
/// a terminal.
func printRaw(_ json: some Sequence<UInt8>) {
    let text = String(decoding: Array(json), as: UTF8.self)
    guard text.unicodeScalars.contains(where: \.isC1) else { return printLine(text) }
    printLine(text.unicodeScalars.map { $0.isC1 ? String(format: "\\u%04x", $0.value) : String($0) }.joined())
}

func printJSON(_ value: some Encodable) throws {
    printRaw(try encodedJSON(value))
}

/// With keys as the gateway writes them, for people to read too.
func encodedJSON(_ value: some Encodable) throws -> Data {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return try encoder.encode(value)
}

extension String {
    /// Without control characters: what models and clients wrote must not steer a terminal.
    func printable(keeping kept: String = "") -> String {
        func isHarmless(_ scalar: Unicode.Scalar) -> Bool {
            scalar.properties.generalCategory != .control || kept.unicodeScalars.contains(scalar)
        }
        guard !unicodeScalars.allSatisfy(isHarmless) else { return self }
        return String(String.UnicodeScalarView(unicodeScalars.map { isHarmless($0) ? $0 : "\u{FFFD}" }))
    }

    /// Fit for one part of a path, or a value of a query.
    var percentEncoded: String {
        var allowed = CharacterSet.alphanumerics.intersection(CharacterSet(charactersIn: "\0"..."\u{7F}"))
        allowed.insert(charactersIn: "-._~")
        return addingPercentEncoding(withAllowedCharacters: allowed) ?? ""
    }
}

extension Unicode.Scalar {
    fileprivate var isC1: Bool { (0x7F...0x9F).contains(value) }
}
