// Renders a chat template with llama.cpp's own engine: render_template TEMPLATE_FILE VARIABLES_JSON
// Linked with common/jinja of llama.cpp by a test; an error of the template is exit code 1.
#include <fstream>
#include <iostream>
#include <sstream>

#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "json.h"

int main(int, char ** argv) {
    std::ifstream file(argv[1]);
    std::stringstream text;
    text << file.rdbuf();
    try {
        jinja::lexer lexer;
        auto tokens = lexer.tokenize(text.str());
        jinja::program program = jinja::parse_from_tokens(tokens);
        jinja::context context(text.str());
        jinja::global_from_json(context, common_json::parse(argv[2]), true);
        jinja::runtime runtime(context);
        std::cout << runtime.gather_string_parts(runtime.execute(program))->as_string().str();
    } catch (const std::exception & error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
