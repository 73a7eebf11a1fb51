#include <curl/curl.h>

int main(int argc, char **argv)
{
	CURL *curl = curl_easy_init();
	curl_easy_setopt(curl, CURLOPT_URL, argv[1]);
	return argc == 2 ? curl_easy_perform(curl) : 2;
}
