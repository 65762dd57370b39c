// The same as checks.py for trials in JavaScript: `run` takes an object of functions and the server's URL.

export const MESSAGES = [{ role: "user", content: "How do I reverse a list in Python?" }];

export function assert(condition, message) {
  if (!condition) throw new Error(message ?? "an assertion failed");
}

export function said(text) {
  assert(typeof text === "string" && text.trim() !== "", `nothing was said: ${JSON.stringify(text)}`);
  return text;
}

export function checkWeather(given) {
  const { city, days } = typeof given === "string" ? JSON.parse(given) : given;
  assert(["Paris", "Rome"].includes(city) && days >= 1 && days <= 9, JSON.stringify(given));
}

export async function run(trials) {
  const url = process.argv[2];
  for (const [name, trial] of Object.entries(trials)) {
    let wrong = "";
    try {
      await trial(url);
    } catch (error) {
      wrong = String(error?.stack ?? error).slice(0, 400);
    }
    console.log(JSON.stringify({ name, wrong }));
  }
}
