import GatewayCore

/// Which models an upstream says it has.
package enum ModelListReader {
    /// Ollama's `/api/tags` and `/api/ps`, and OpenAI's `/v1/models`; nil where the reply is of another shape.
    package static func models(_ body: [UInt8], kind: UpstreamKind, parser: JSONParser) -> [String]? {
        guard let object = try? parser.parse(body) else { return nil }
        guard let list = kind == .openai ? object["data"] : object["models"], list.kind == .array else { return nil }
        var names: [String] = []
        list.forEachElement { (element) throws(Never) in
            if let name = (kind == .openai ? element["id"] : element["name"])?.string { names.append(name) }
        }
        return names
    }
}
