/* The start of a frozen binary: an interpreter that knows its own modules only. No file is looked for or opened, no
   variable of the environment is heeded, and nothing is unpacked. */
#include <Python.h>
#include "modules.h" /* FROZEN, and the table of extension modules: made by binary.py */

/* The C library would load more of itself at run time, for names of users and hosts (nsswitch.conf) and character sets:
   from the host's files, which may be of any other version. It does with what is linked in: files and DNS. */
void *__wrap___libc_dlopen_mode(const char *name, int mode) {
    (void)name, (void)mode;
    return NULL;
}

/* Python would look for its library around the executable. */
PyStatus __wrap__PyConfig_InitPathConfig(PyConfig *config, int compute) {
    (void)config, (void)compute;
    return PyStatus_Ok();
}

static void fail(PyStatus status, PyConfig *config) {
    PyConfig_Clear(config);
    Py_ExitStatusException(status);
}

int main(int argc, char **argv) {
    PyPreConfig early;
    PyPreConfig_InitIsolatedConfig(&early);
    early.utf8_mode = 1;
    PyStatus status = Py_PreInitialize(&early);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    PyImport_FrozenModules = FROZEN;

    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.write_bytecode = 0;
    config.pathconfig_warnings = 0;
    config.module_search_paths_set = 1;
    config.install_signal_handlers = 1;
    config.optimization_level = 2;
    wchar_t **paths[] = {&config.program_name, &config.executable, &config.base_executable};
    for (int i = 0; i < 3; i++)
        if (PyStatus_Exception(status = PyConfig_SetString(&config, paths[i], L"/proc/self/exe")))
            fail(status, &config);
    wchar_t **none[] = {&config.home, &config.prefix, &config.exec_prefix, &config.base_prefix,
                        &config.base_exec_prefix, &config.stdlib_dir, &config.platlibdir};
    for (int i = 0; i < 7; i++)
        if (PyStatus_Exception(status = PyConfig_SetString(&config, none[i], L"")))
            fail(status, &config);
    if (PyStatus_Exception(status = PyConfig_SetBytesArgv(&config, argc, argv)))
        fail(status, &config);
    if (PyStatus_Exception(status = Py_InitializeFromConfig(&config)))
        fail(status, &config);
    PyConfig_Clear(&config);
    if (PyImport_ImportFrozenModule("__main__") < 0)
        PyErr_Print();
    Py_FinalizeEx(); /* boot.py has ended the process by itself, unless something went wrong */
    return 1;
}
